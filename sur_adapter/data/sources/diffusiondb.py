"""DiffusionDB (Wang et al., arXiv 2210.14896; CC0): pictures of Stable Diffusion with the prompts people drew them from.

A table says what there is: metadata.parquet (2 million pictures), metadata-large.parquet (14 million). It is read by a predicate;
only the parts that hold rows it lets through are fetched, zips of a thousand pictures; members are read into memory, one at a time.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

REPOSITORY = "poloclub/diffusiondb"
COLUMNS = ("image_name", "prompt", "part_id", "width", "height", "cfg", "image_nsfw", "prompt_nsfw")
USER = "user_name"  # a hash already; where the table has it
LEVELS = ((0.2, "None"), (0.5, "Soft"), (0.8, "Mature"), (1.01, "X"))  # our reading of the larger of both likelihoods; theirs has no levels
BLURRED = 2.0
BROKEN = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)  # of a zip: a password, an unknown method, …
Locate = Callable[[str], Path]  # the file of a name in the dataset; FileNotFoundError where there is none


def rows(
    *,
    limit: int,
    path: str | None = None,
    revision: str | None = None,
    large: bool = False,
    parts: list[int] | None = None,
    image_nsfw: float | None = 0.2,
    prompt_nsfw: float | None = 0.2,
    min_width: int | None = None,
    max_width: int | None = None,
    min_height: int | None = None,
    max_height: int | None = None,
    min_cfg: float | None = None,
    max_cfg: float | None = None,
    max_bytes: int = 32 * 2**20,
) -> Iterator[dict]:
    """A row for each of the first `limit` pictures that the conditions let through, in order of part and table.

    path: a local copy, laid out as the dataset is; null fetches what is needed from the hub, at `revision`.
    parts: their numbers; null for all. image_nsfw, prompt_nsfw: likelihoods below these; null for any, blurred pictures included.
    Raises FileNotFoundError without the table, ValueError where it lacks a column or holds no such picture.
    """
    locate = local(path) if path else hub(revision)
    within = {"width": (min_width, max_width), "height": (min_height, max_height), "cfg": (min_cfg, max_cfg)}
    condition = _condition(within, {"image_nsfw": image_nsfw, "prompt_nsfw": prompt_nsfw}, parts)
    yield from read(locate, limit, condition, large, max_bytes)


def local(path: str) -> Locate:
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"sources.diffusiondb.path: {path} is no folder: name a copy of DiffusionDB, or null for the hub")
    return folder.joinpath


def hub(revision: str | None, download: Callable[..., str] | None = None) -> Locate:
    """Files of the dataset on the hub, kept in its client's own cache."""
    if download is None:
        from huggingface_hub import hf_hub_download as download

    def locate(name: str) -> Path:
        try:
            return Path(download(REPOSITORY, name, repo_type="dataset", revision=revision))
        except (OSError, ValueError) as error:  # its errors are of either kind: no such file, no network, a wrong revision
            raise FileNotFoundError(f"{name} of {REPOSITORY} cannot be fetched ({type(error).__name__})") from error

    return locate


def _condition(within: dict, below: dict, parts: list[int] | None) -> pc.Expression | None:
    every = [pc.field(name) >= low for name, (low, _) in within.items() if low is not None]
    every += [pc.field(name) <= high for name, (_, high) in within.items() if high is not None]
    every += [pc.field(name) < most for name, most in below.items() if most is not None]
    every += [pc.field("part_id").isin(parts)] if parts is not None else []
    condition = None
    for one in every:
        condition = one if condition is None else condition & one
    return condition


def read(locate: Locate, limit: int, condition: pc.Expression | None, large: bool, max_bytes: int) -> Iterator[dict]:
    """The rows, part by part; one part that is missing or broken costs its own rows a reason, and no other."""
    table = _chosen(locate("metadata-large.parquet" if large else "metadata.parquet"), limit, condition)
    for number in table["part_id"].unique().to_pylist():
        folder = ("diffusiondb-large-part-1" if number <= 10_000 else "diffusiondb-large-part-2") if large else "images"
        name = f"{folder}/part-{number:06d}.zip"
        yield from _part(locate, name, table.filter(pc.equal(table["part_id"], number)).to_pylist(), max_bytes)


def _chosen(file: Path, limit: int, condition: pc.Expression | None) -> pa.Table:
    """COLUMNS of the first rows by part. What is not asked for is not read: part numbers first, then the rows of parts enough."""
    if not file.is_file():
        raise FileNotFoundError(f"sources.diffusiondb: {file} is missing: name a copy of DiffusionDB in path, or null for the hub")
    try:
        data = ds.dataset(file)
        if lacking := sorted(set(COLUMNS) - set(data.schema.names)):
            raise ValueError(f"{file} has no column {', '.join(lacking)}: take the table that DiffusionDB has now")
        counts = data.to_table(["part_id"], filter=condition)["part_id"].value_counts().to_pylist()
        enough, total = [], 0
        for part in sorted(counts, key=lambda count: count["values"]):
            if total < limit:
                enough.append(part["values"])
                total += part["counts"]
        if not enough:
            raise ValueError("sources.diffusiondb: no picture meets the conditions: loosen them in params.yaml")
        these = pc.field("part_id").isin(enough)
        table = data.to_table([*COLUMNS, *({USER} & set(data.schema.names))], filter=these if condition is None else condition & these)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read ({error}): fetch it again") from error
    return table.take(pc.sort_indices(table["part_id"])[:limit])  # stable: in the table's order within a part


def _part(locate: Locate, name: str, wanted: list[dict], max_bytes: int) -> Iterator[dict]:
    try:
        file = locate(name)
        if not file.is_file():
            raise FileNotFoundError
        archive = zipfile.ZipFile(file)
    except BROKEN as error:
        why = "part missing" if isinstance(error, FileNotFoundError) else "part broken"
        yield from (_row(told, name, None, why) for told in wanted)
        return
    with archive:
        members = {Path(member.filename).name: member for member in archive.infolist()}  # whatever folder a member claims
        for told in wanted:
            yield _row(told, name, *_member(archive, members.get(told["image_name"]), max_bytes))


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo | None, max_bytes: int) -> tuple[bytes | None, str | None]:
    """(bytes, None), or (None, reason). Nothing is ever unpacked to disk, and no more is unpacked than may be kept."""
    if member is None:
        return None, "file missing"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others unpack all at once, however much that is
        return None, "file broken"
    try:
        with archive.open(member) as file:
            data = file.read(max_bytes + 1)
            return (data, None) if len(data) <= max_bytes else (None, "too many bytes")
    except BROKEN:
        return None, "file broken"


def _row(told: dict, part: str, data: bytes | None, dropped: str | None) -> dict:
    prompt = (told["prompt"] or "").strip()
    return {
        "source": "diffusiondb",
        "url": f"hf://datasets/{REPOSITORY}/{part}/{told['image_name']}",
        "user": told.get(USER),
        "complex_prompt": prompt or None,
        "negative_prompt": None,
        "width": told["width"],
        "height": told["height"],
        "nsfw": level(told["image_nsfw"], told["prompt_nsfw"]),
        "licence": "CC0-1.0",
        "data": data,
        "dropped": dropped,
    }


def level(image: float | None, prompt: float | None) -> str:
    """None | Soft | Mature | X by the larger likelihood; Blurred where the picture no longer shows it; Unknown where either is not told."""
    if image == BLURRED:
        return "Blurred"
    if image is None or prompt is None:
        return "Unknown"
    return next((name for most, name in LEVELS if max(image, prompt) < most), "Unknown")  # NaN too
