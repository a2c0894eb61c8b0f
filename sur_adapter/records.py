"""The data contract, told once: what a row holds, and how rows lie in shards.

Pixels in tar (WebDataset), words in Parquet, one id ties them: the first sixteen hex digits of the SHA-256 of the
picture's bytes. Everything written here is byte-identical when its content is: no clock, no user, fixed order;
and it is there whole, or not at all.
"""

import os
import tarfile
from collections.abc import Iterable, Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sur_adapter.whole import whole

SHARD = 2048  # rows a shard
FORMATS = ("PNG", "JPEG", "WEBP")  # the only decoders strangers' bytes get to see

RAW = pa.schema(
    [
        ("id", pa.string()),  # of the picture's bytes; of the address where none came
        ("source", pa.string()),
        ("url", pa.string()),
        ("user", pa.string()),  # forget.mark of the name, which is kept nowhere; null where the source tells none
        ("complex_prompt", pa.string()),  # as found
        ("clean_prompt", pa.string()),  # as models read it (wording.py)
        ("prompt_by", pa.string()),  # null: as found; or what made the prompt up, which no test split may hold
        ("negative_prompt", pa.string()),
        ("simple_prompt", pa.string()),  # where a source has one of its own; null where the captioner is asked
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("nsfw", pa.string()),
        ("licence", pa.string()),
        ("dropped", pa.string()),  # reason, or null
    ]
)
CAPTIONS = pa.schema([("id", pa.string()), ("simple_prompt", pa.string())])


def record_id(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]


def genuine(file: Path, key: str, data: bytes) -> None:
    """ValueError where bytes out of `file` are not those that the crawl named by their digest."""
    if record_id(data) != key:
        raise ValueError(f"{file}: the picture {key} is not what was crawled: `python -m stages verify` says how to mend it")


def group_split(group: str, test: float, validation: float) -> str:
    """ "train" | "validation" | "test": a function of the group's id alone, the same on every machine."""
    share = int(sha256(f"split {group}".encode()).hexdigest()[:8], 16) / 2**32
    return "test" if share < test else "validation" if share < test + validation else "train"


def write_table(path: Path, rows: Iterable[dict] | pd.DataFrame, schema: pa.Schema | None = None) -> None:
    """One Parquet file, zstd, columns in the order of the schema; each page with its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, pd.DataFrame):
        table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False).replace_schema_metadata(None)
    else:
        table = pa.Table.from_pylist(list(rows), schema=schema)
    with whole(path) as part:
        pq.write_table(table, part, compression="zstd", write_page_checksum=True)


def read_table(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """All Parquet files of a folder, or one file, in name order; of their columns those named, as far as they have them."""
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]
    if not files or not files[0].exists():
        raise FileNotFoundError(f"{folder} holds no Parquet file: run the stage that writes it (`dvc repro`)")
    try:
        return pd.concat([_checked(f).read(columns).replace_schema_metadata(None).to_pandas() for f in files], ignore_index=True)
    except PermissionError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"a table under {folder} cannot be read ({error}): remove the folder and run `dvc repro` again") from error


def _checked(file: Path) -> pq.ParquetFile:
    """Raises OSError where it is read and a page is not as it was written."""
    return pq.ParquetFile(file, page_checksum_verification=True)


def write_tar(path: Path, members: Iterable[tuple[str, str, bytes]]) -> None:
    """(key, extension, bytes) of each member, in the order given, as a WebDataset shard."""
    os.environ.setdefault("WDS_SECURE", "1")  # else whoever reads by webdataset in this process unpickles what a tar holds
    from webdataset import TarWriter  # brings torch along: two seconds, which readers of tables need not wait

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part, part.open("wb") as file, TarWriter(file, mtime=0, user="", group="") as tar:
        for key, ext, data in members:
            tar.write({"__key__": key, ext: data})


def read_tar(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """(key, extension, bytes) of each member of all shards of a folder, or of one file, in order."""
    files = sorted(folder.glob("*.tar")) if folder.is_dir() else [folder]
    if not files:
        raise FileNotFoundError(f"{folder} holds no tar shard: run the stage that writes it (`dvc repro`)")
    for file in files:
        try:
            with tarfile.open(file, "r:") as tar:  # not packed: what is may unpack to anything
                for member in plain(tar, file.stat().st_size):
                    key, _, ext = member.name.partition(".")
                    yield key, ext, tar.extractfile(member).read()
                ended(tar)
        except PermissionError:
            raise
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{file} is cut short or broken ({error}): remove it and run `dvc repro` again") from error


def ended(tar: tarfile.TarFile) -> None:
    """Raises ReadError where what follows the last member is no end: the module takes a member whose head is spoilt for the end."""
    tar.fileobj.seek(tar.offset)
    if any(block.strip(b"\0") for block in iter(lambda: tar.fileobj.read(2**20), b"")):
        raise tarfile.ReadError(f"no member begins at byte {tar.offset}")


def plain(tar: tarfile.TarFile, size: int) -> Iterator[tarfile.TarInfo]:
    """The members of a tar of so many bytes. Raises tarfile.ReadError for whatever a shard has not: links, folders, devices, holes, paths,
    members that claim to be longer than the tar, or less than nothing, by which a reader would go round in circles."""
    for member in tar:
        within = 0 <= member.size <= size - member.offset_data
        if not member.isreg() or member.issparse() or "/" in member.name or member.name.startswith(".") or not within:
            raise tarfile.ReadError(f"it holds {member.name[:80]!r}, which is no plain file of a shard")
        yield member


def open_image(data: bytes) -> Image.Image:
    """The picture in some bytes, RGB on white. Raises ValueError where they are none."""
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        if image.mode in ("RGBA", "LA", "P"):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow's decoders raise either on bytes that were spoilt
        raise ValueError(f"a picture cannot be decoded ({error}): `python -m stages verify` says which file is spoilt") from error


def chunks(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def shards(pairs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """("train-000000", its rows): by split, in the order of the pairs. Shard k of every cache holds the same ids."""
    for split in ("test", "train", "validation"):
        rows = pairs[pairs["split"] == split]
        for k in range(0, len(rows), SHARD):
            yield f"{split}-{k // SHARD:06d}", rows.iloc[k : k + SHARD]
