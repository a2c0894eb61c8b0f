"""Reads and writes Parquet tables and WebDataset tar shards, byte-identical for equal content."""

import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sur_adapter.io.atomic import atomic_write


def write_table(path: Path, rows: Iterable[dict] | pd.DataFrame, schema: pa.Schema | None = None) -> None:
    """Writes one Parquet file: zstd, columns in the order of the schema, a checksum for each page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, pd.DataFrame):
        table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False).replace_schema_metadata(None)
    else:
        table = pa.Table.from_pylist(list(rows), schema=schema)
    with atomic_write(path) as part:
        pq.write_table(table, part, compression="zstd", write_page_checksum=True)


def read_table(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Reads all Parquet files of a folder in name order, or one file. columns: those to read; ones that a file lacks are left out.

    Raises FileNotFoundError if there is no file, ValueError if one is corrupt.
    """
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
    """Opens a file so that reading a page with a wrong checksum raises OSError."""
    return pq.ParquetFile(file, page_checksum_verification=True)


def write_tar(path: Path, members: Iterable[tuple[str, str, bytes]]) -> None:
    """Writes members, each (key, extension, bytes), in their order, as a WebDataset shard."""
    os.environ.setdefault("WDS_SECURE", "1")  # otherwise webdataset readers in this process unpickle members
    from webdataset import TarWriter  # imports torch, which takes two seconds

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part, part.open("wb") as file, TarWriter(file, mtime=0, user="", group="") as tar:
        for key, ext, data in members:
            tar.write({"__key__": key, ext: data})


def read_tar(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yields (key, extension, bytes) of each member of one tar, or of all tars of a folder in name order.

    Raises FileNotFoundError if there is no tar, ValueError if one is corrupt.
    """
    files = sorted(folder.glob("*.tar")) if folder.is_dir() else [folder]
    if not files:
        raise FileNotFoundError(f"{folder} holds no tar shard: run the stage that writes it (`dvc repro`)")
    for file in files:
        with tar_errors(file), tarfile.open(file, "r:") as tar:  # uncompressed only: no decompression bombs
            for member in plain_members(tar, file.stat().st_size):
                key, _, ext = member.name.partition(".")
                yield key, ext, tar.extractfile(member).read()
            check_end_of_archive(tar)


@contextmanager
def tar_errors(file: Path) -> Iterator[None]:
    """Turns the errors of reading a corrupt tar into a ValueError that says what to do."""
    try:
        yield
    except PermissionError:
        raise
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{file} is cut short or broken ({error}): remove it and run `dvc repro` again") from error


def check_end_of_archive(tar: tarfile.TarFile) -> None:
    """Raises ReadError if data follow the last member: tarfile takes a corrupt header for the end of the archive."""
    tar.fileobj.seek(tar.offset)
    if any(block.strip(b"\0") for block in iter(lambda: tar.fileobj.read(2**20), b"")):
        raise tarfile.ReadError(f"no member begins at byte {tar.offset}")


def plain_members(tar: tarfile.TarFile, size: int) -> Iterator[tarfile.TarInfo]:
    """Yields the members of a tar of `size` bytes.

    Raises tarfile.ReadError for members that no shard has: links, folders, devices, sparse files, paths, and sizes that are negative (a
    reader would loop forever) or exceed the tar.
    """
    for member in tar:
        within = 0 <= member.size <= size - member.offset_data
        if not member.isreg() or member.issparse() or "/" in member.name or member.name.startswith(".") or not within:
            raise tarfile.ReadError(f"it holds {member.name[:80]!r}, which is not a plain file of a shard")
        yield member


def batched(items: list, size: int) -> list[list]:
    """Splits a list into lists of `size` items; the last may be shorter."""
    return [items[i : i + size] for i in range(0, len(items), size)]
