"""A folder of images, with all folders below it.

The prompt of an image is the first of: a row of metadata.jsonl, .csv or .parquet (a Hugging Face image folder, SURD), a text file with the
image's name, the prompt that its generator embedded. Metadata with both `prompt` and `text` has the simple prompt, too. Links that lead
out of the folder are not followed.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow.parquet as pq

from sur_adapter.data.crawl.crawl_state import NEW_CRAWL, CrawlState
from sur_adapter.data.prompts.cleaning import nonempty_text
from sur_adapter.data.prompts.embedded import embedded_prompts, sidecar_prompts
from sur_adapter.data.prompts.interrogator import Interrogator, InterrogatorConfig
from sur_adapter.data.sources.base import SourceConfig

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
MAX_BYTES = 2**28  # of a file


@dataclass(frozen=True)
class Config(SourceConfig):
    """Section `sources.folder` of params.yaml.

    path: the folder. interrogate: writes a prompt for images without any; null: none.
    """

    path: str
    interrogate: InterrogatorConfig | None = None


class RowPrompts(NamedTuple):
    """Prompts of one image, under the names of their columns."""

    complex_prompt: str | None
    negative_prompt: str | None
    simple_prompt: str | None = None


def rows(config: Config, state: CrawlState = NEW_CRAWL) -> Iterator[dict]:
    """Yields a row for each image, in order of its path; then one for each row of metadata whose image is missing.

    Raises FileNotFoundError if there is no folder, ValueError if it has no image or its metadata cannot be read.
    """
    folder = Path(config.path)
    if not folder.is_dir():
        raise FileNotFoundError(f"sources.folder.path: {folder} is not a folder: name one that holds images ({', '.join(EXTENSIONS)})")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in EXTENSIONS and f.is_file() and not f.name.startswith("."))
    if not files:
        raise ValueError(f"sources.folder.path: {folder} holds no image: put files ending in {', '.join(EXTENSIONS)} there")
    candidates = _rows(folder, files)
    yield from Interrogator(config.interrogate).fill(candidates) if config.interrogate else candidates


def _rows(folder: Path, files: list[Path]) -> Iterator[dict]:
    refused = {file: _refused(file, folder) for file in files}
    by_file, missing = _read_metadata(folder, refused)
    for file, reason in refused.items():
        data = None if reason else file.read_bytes()
        for prompts in by_file.get(file) or [_read_sidecar(file, folder) or RowPrompts(*embedded_prompts(data or b""))]:
            yield _row(file.relative_to(folder).as_posix(), prompts, data, reason)
    for name, prompts, reason in missing:
        yield _row(name, prompts, None, reason)


def _row(name: str, prompts: RowPrompts, data: bytes | None, dropped: str | None) -> dict:
    row = {"source": "folder", "url": name, **prompts._asdict()}
    return row | {"width": None, "height": None, "nsfw": None, "licence": None, "data": data, "dropped": dropped}


def _refused(file: Path, folder: Path) -> str | None:
    """Returns the reason why a file of the folder is not opened, if any. A link that leads out of it could publish private files.

    A snapshot in the hub's cache consists of links to `blobs` beside it; those are followed.
    """
    root, target = folder.resolve(), file.resolve()
    blobs = [p.parent / "blobs" for p in root.parents if p.name == "snapshots"]
    if not any(target.is_relative_to(allowed) for allowed in (root, *blobs)):
        return "outside the folder"
    return "too many bytes" if file.stat().st_size > MAX_BYTES else None


def _read_sidecar(file: Path, folder: Path) -> RowPrompts | None:
    text = file.with_suffix(".txt")
    if not text.is_file() or _refused(text, folder):
        return None
    return RowPrompts(*sidecar_prompts(text.read_text("utf-8-sig", "replace")))


def _read_metadata(folder: Path, refused: dict[Path, str | None]) -> tuple[dict[Path, list[RowPrompts]], list[tuple[str, RowPrompts, str]]]:
    """Returns (image file -> its prompts, [(name, prompts, reason) of rows without an image])."""
    by_file: dict[Path, list[RowPrompts]] = defaultdict(list)
    missing = []
    for table in sorted(f for f in folder.rglob("metadata.*") if f.name in METADATA and f.is_file()):
        if reason := _refused(table, folder):
            raise ValueError(f"{table} cannot be read ({reason}): repair or remove it")
        index = _index([f for f in refused if f.is_relative_to(table.parent)])
        for row in _read_table(table).to_dict("records"):
            prompts, name = _row_prompts(row), str(row["file_name"])
            files = index.get(("path", table.parent / name)) or index.get(("name", name)) or []
            if len(files) != 1:
                path = (table.parent.relative_to(folder) / name).as_posix()
                missing.append((path, prompts, "more than one file" if files else "file missing"))
                continue
            if not prompts.complex_prompt and refused[files[0]] is None:
                prompts = RowPrompts(*embedded_prompts(files[0].read_bytes()), prompts.simple_prompt)
            by_file[files[0]].append(prompts)
    return by_file, missing


def _row_prompts(row: dict) -> RowPrompts:
    """Returns the prompts in a row of metadata. `text` is the simple prompt if there is a complex one, else it is the complex one."""
    simple = _first(row, "text") if "prompt" in row or "complex_prompt" in row else None
    return RowPrompts(_first(row, "prompt", "complex_prompt", "text"), _first(row, "negative_prompt", "negativePrompt"), simple)


def _first(row: dict, *columns: str) -> str | None:
    """Returns the text in the first of `columns` that the table has."""
    return nonempty_text(next((row[column] for column in columns if column in row), None))


def _read_table(file: Path) -> pd.DataFrame:
    try:
        if file.suffix == ".jsonl":
            table = pd.read_json(file, lines=True, dtype=False)
        else:
            table = pd.read_csv(file, dtype=str) if file.suffix == ".csv" else _read_parquet(file)
    except Exception as error:  # an untrusted table can make its reader raise anything
        raise ValueError(f"{file} cannot be read ({error}): repair or remove it") from error
    if "file_name" not in table:
        raise ValueError(
            f"{file} has no column file_name, but {', '.join(map(str, table))[:200] or 'none'}: add one with each image's name"
        )
    return table


def _read_parquet(file: Path) -> pd.DataFrame:
    """Reads a table without the metadata for pandas in it, which is untrusted."""
    with pq.ParquetFile(file) as opened:
        if opened.metadata.num_rows > file.stat().st_size:  # each image has a name of its own
            raise ValueError(f"{opened.metadata.num_rows} rows in {file.stat().st_size} bytes")
        return opened.read().replace_schema_metadata(None).to_pandas()


def _index(files: list[Path]) -> dict[tuple[str, Path | str], list[Path]]:
    """Indexes images by path and by name, with and without extension (SURD omits folder and extension)."""
    index = defaultdict(list)
    for f in files:
        for key in (("path", f), ("path", f.with_suffix("")), ("name", f.name), ("name", f.stem)):
            index[key].append(f)
    return index
