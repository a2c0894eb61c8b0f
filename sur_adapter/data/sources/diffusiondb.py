"""DiffusionDB (Wang et al., arXiv 2210.14896; CC0): images of Stable Diffusion with the prompts of its users.

The table metadata.parquet (2 million images) or metadata-large.parquet (14 million) is read with a filter. Only the parts that hold
selected rows are fetched: zips of a thousand images, whose members are read into memory one at a time.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import and_
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from huggingface_hub import hf_hub_download

from sur_adapter.data.crawl.crawl_state import NEW_CRAWL, CrawlState
from sur_adapter.data.sources.base import SourceConfig

REPOSITORY = "poloclub/diffusiondb"
COLUMNS = ("image_name", "prompt", "part_id", "width", "height", "cfg", "image_nsfw", "prompt_nsfw")
USER_COLUMN = "user_name"  # already a hash; only some tables have it
LEVELS = ((0.2, "None"), (0.5, "Soft"), (0.8, "Mature"), (1.01, "X"))  # our thresholds on the larger likelihood; the dataset has no levels
BLURRED = 2.0
ZIP_ERRORS = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)  # RuntimeError: password, unknown method
Locate = Callable[[str], Path]  # name in the dataset -> local file; raises FileNotFoundError


@dataclass(frozen=True, kw_only=True)
class Config(SourceConfig):
    """Section `sources.diffusiondb` of params.yaml.

    limit: maximum number of images. path: a local copy with the dataset's layout; null: the hub, at `revision`.
    large: the set of 14 million. parts: their numbers; null: all. image_nsfw, prompt_nsfw: likelihoods must be below; null: any, blurred
    images included. min_*, max_*: limits of width, height (pixels) and classifier-free guidance. max_bytes: of one image.
    """

    limit: int
    path: str | None = None
    revision: str | None = None
    large: bool = False
    parts: tuple[int, ...] | None = None
    image_nsfw: float | None = 0.2
    prompt_nsfw: float | None = 0.2
    min_width: int | None = None
    max_width: int | None = None
    min_height: int | None = None
    max_height: int | None = None
    min_cfg: float | None = None
    max_cfg: float | None = None
    max_bytes: int = 32 * 2**20

    def num_rows(self) -> int:
        return self.limit

    def condition(self) -> pc.Expression | None:
        """Returns the filter of the table; None selects all rows."""
        conditions = []
        for column in ("width", "height", "cfg"):
            low, high = getattr(self, f"min_{column}"), getattr(self, f"max_{column}")
            conditions += [pc.field(column) >= low] if low is not None else []
            conditions += [pc.field(column) <= high] if high is not None else []
        for column in ("image_nsfw", "prompt_nsfw"):
            upper = getattr(self, column)
            conditions += [pc.field(column) < upper] if upper is not None else []
        conditions += [pc.field("part_id").isin(list(self.parts))] if self.parts is not None else []
        return reduce(and_, conditions) if conditions else None


def rows(config: Config, state: CrawlState = NEW_CRAWL) -> Iterator[dict]:
    """Yields a row for each of the first `limit` images that pass the filter, in order of part and table.

    Raises FileNotFoundError if there is no table, ValueError if it lacks a column or has no such image.
    """
    yield from read(local(config.path) if config.path else hub(config.revision), config)


def local(path: str) -> Locate:
    """Locates files of a local copy. Raises FileNotFoundError if it is not a folder."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"sources.diffusiondb.path: {path} is not a folder: name a copy of DiffusionDB, or null for the hub")
    return folder.joinpath


def hub(revision: str | None, download: Callable[..., str] = hf_hub_download) -> Locate:
    """Locates files of the dataset on the hub, cached by its client."""

    def locate(name: str) -> Path:
        try:
            return Path(download(REPOSITORY, name, repo_type="dataset", revision=revision))
        except (OSError, ValueError) as error:  # no such file, no network, or a wrong revision
            raise FileNotFoundError(
                f"{name} of {REPOSITORY} cannot be fetched ({type(error).__name__}): check the network and sources.diffusiondb.revision, "
                "or name a local copy in sources.diffusiondb.path"
            ) from error

    return locate


def read(locate: Locate, config: Config) -> Iterator[dict]:
    """Yields the rows part by part. A part that is missing or corrupt gives each of its rows a reason and affects no other part."""
    file = locate("metadata-large.parquet" if config.large else "metadata.parquet")
    table = select_rows(file, config.limit, config.condition())
    for number in table["part_id"].unique().to_pylist():
        folder = "images"
        if config.large:
            folder = "diffusiondb-large-part-1" if number <= 10_000 else "diffusiondb-large-part-2"
        part = table.filter(pc.equal(table["part_id"], number)).to_pylist()
        yield from _read_part(locate, f"{folder}/part-{number:06d}.zip", part, config.max_bytes)


def select_rows(file: Path, limit: int, condition: pc.Expression | None) -> pa.Table:
    """Selects COLUMNS of the first `limit` rows by part. Reads the part numbers first, then only the rows of as many parts as are needed.

    Raises FileNotFoundError if there is no table, ValueError if it cannot be read, lacks a column, or no row passes the filter.
    """
    if not file.is_file():
        raise FileNotFoundError(f"sources.diffusiondb: {file} is missing: name a copy of DiffusionDB in path, or null for the hub")
    try:
        data = ds.dataset(file)
        if missing := sorted(set(COLUMNS) - set(data.schema.names)):
            raise ValueError(f"{file} has no column {', '.join(missing)}: use the current table of DiffusionDB")
        counts = data.to_table(["part_id"], filter=condition)["part_id"].value_counts().to_pylist()
        parts, total = [], 0
        for part in sorted(counts, key=lambda count: count["values"]):
            if total < limit:
                parts.append(part["values"])
                total += part["counts"]
        if not parts:
            raise ValueError("sources.diffusiondb: no image meets the conditions: loosen them in params.yaml")
        in_parts = pc.field("part_id").isin(parts)
        columns = [*COLUMNS, *({USER_COLUMN} & set(data.schema.names))]
        table = data.to_table(columns, filter=in_parts if condition is None else condition & in_parts)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read ({error}): fetch it again") from error
    return table.take(pc.sort_indices(table["part_id"])[:limit])  # stable: in the table's order within a part


def _read_part(locate: Locate, name: str, rows: list[dict], max_bytes: int) -> Iterator[dict]:
    try:
        file = locate(name)
        if not file.is_file():
            raise FileNotFoundError
        archive = zipfile.ZipFile(file)
    except ZIP_ERRORS as error:
        reason = "part missing" if isinstance(error, FileNotFoundError) else "part broken"
        yield from (_row(values, name, None, reason) for values in rows)
        return
    with archive:
        members = {Path(member.filename).name: member for member in archive.infolist()}  # the folder of a member is ignored
        for values in rows:
            yield _row(values, name, *_read_member(archive, members.get(values["image_name"]), max_bytes))


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo | None, max_bytes: int) -> tuple[bytes | None, str | None]:
    """Returns (bytes, None) or (None, reason). Nothing is unpacked to disk, and at most `max_bytes` + 1 are unpacked to memory."""
    if member is None:
        return None, "file missing"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # other methods unpack everything at once
        return None, "file broken"
    try:
        with archive.open(member) as file:
            data = file.read(max_bytes + 1)
            return (data, None) if len(data) <= max_bytes else (None, "too many bytes")
    except ZIP_ERRORS:
        return None, "file broken"


def _row(values: dict, part: str, data: bytes | None, dropped: str | None) -> dict:
    prompt = (values["prompt"] or "").strip()
    return {
        "source": "diffusiondb",
        "url": f"hf://datasets/{REPOSITORY}/{part}/{values['image_name']}",
        "user": values.get(USER_COLUMN),
        "complex_prompt": prompt or None,
        "negative_prompt": None,
        "width": values["width"],
        "height": values["height"],
        "nsfw": level(values["image_nsfw"], values["prompt_nsfw"]),
        "licence": "CC0-1.0",
        "data": data,
        "dropped": dropped,
    }


def level(image: float | None, prompt: float | None) -> str:
    """Returns a level of LEVELS by the larger likelihood; Blurred if the image was blurred; Unknown if a likelihood is missing."""
    if image == BLURRED:
        return "Blurred"
    if image is None or prompt is None:
        return "Unknown"
    return next((name for limit, name in LEVELS if max(image, prompt) < limit), "Unknown")  # NaN too
