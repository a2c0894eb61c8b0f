"""A folder of one's own pictures, with all that is below it.

The prompt of a picture is the first of: a row of metadata.jsonl, .csv or .parquet (a Hugging Face image folder, SURD),
a text file of the picture's name, what its generator wrote into it. Metadata with both `prompt` and `text` tells the simple prompt too.
Links that lead out of the folder are not followed.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from sur_adapter.config import settings
from sur_adapter.data.prompts.embedded import prompts, sidecar

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MAX_BYTES = 2**28  # of a file
READERS = {
    "metadata.jsonl": lambda f: pd.read_json(f, lines=True, dtype=False),
    "metadata.csv": lambda f: pd.read_csv(f, dtype=str),
    "metadata.parquet": lambda f: _parquet(f),
}


def rows(*, path: str, interrogate: dict | None = None) -> Iterator[dict]:
    """A row for each picture, in order of its path; then one for each row of metadata whose picture is missing.

    interrogate: settings of an Interrogator, {"clip": a model, …}, which writes a prompt for pictures without any; null leaves them so.

    Raises FileNotFoundError without a folder, ValueError without a picture or where metadata cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"sources.folder.path: {path} is no folder: name one that holds pictures ({', '.join(PICTURES)})")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in PICTURES and f.is_file() and not f.name.startswith("."))
    if not files:
        raise ValueError(f"sources.folder.path: {path} holds no picture: put files ending in {', '.join(PICTURES)} there")
    found = _rows(folder, files)
    if interrogate:
        from sur_adapter.data.prompts.interrogator import PARAM, Interrogator  # models and labels: loaded where they are asked for

        found = Interrogator(**settings(Interrogator, interrogate, PARAM)).fill(found)
    yield from found


def _rows(folder: Path, files: list[Path]) -> Iterator[dict]:
    refused = {file: _refused(file, folder) for file in files}
    told, missing = _told(folder, refused)
    for file, why in refused.items():
        data = None if why else file.read_bytes()
        for words in told.get(file) or [_sidecar(file, folder) or prompts(data or b"")]:
            yield _row(file.relative_to(folder).as_posix(), words, data, why)
    for name, words, why in missing:
        yield _row(name, words, None, why)


def _row(name: str, words: tuple[str | None, ...], data: bytes | None, dropped: str | None) -> dict:
    row = {"source": "folder", "url": name} | dict(zip(("complex_prompt", "negative_prompt", "simple_prompt"), words, strict=False))
    return row | {"width": None, "height": None, "nsfw": None, "licence": None, "data": data, "dropped": dropped}


def _refused(file: Path, folder: Path) -> str | None:
    """Why a file of the folder is not opened, if so. A link that leads out of it would publish what is nobody's to see.

    A snapshot in the hub's cache is links to `blobs` beside it; those may be followed.
    """
    home, real = folder.resolve(), file.resolve()
    blobs = [p.parent / "blobs" for p in home.parents if p.name == "snapshots"]
    if not any(real.is_relative_to(place) for place in (home, *blobs)):
        return "outside the folder"
    return "too many bytes" if file.stat().st_size > MAX_BYTES else None


def _sidecar(file: Path, folder: Path) -> tuple[str | None, str | None] | None:
    text = file.with_suffix(".txt")
    return sidecar(text.read_text("utf-8-sig", "replace")) if text.is_file() and not _refused(text, folder) else None


def _told(folder: Path, files: dict[Path, str | None]) -> tuple[dict[Path, list], list]:
    """(picture -> its (positive, negative, simple) prompts in metadata, [(name, prompts, reason) of rows without a picture])."""
    told: dict[Path, list] = {}
    missing = []
    for table in sorted(f for f in folder.rglob("metadata.*") if f.name in READERS and f.is_file()):
        if why := _refused(table, folder):
            raise ValueError(f"{table} cannot be read ({why}): mend or remove it")
        index = _index([f for f in files if f.is_relative_to(table.parent)])
        for row in _table(table).to_dict("records"):
            simple = _first(row, "text") if "prompt" in row or "complex_prompt" in row else None
            words = _first(row, "prompt", "complex_prompt", "text"), _first(row, "negative_prompt", "negativePrompt"), simple
            if len(found := _find(index, table.parent, str(row["file_name"]))) == 1:
                empty = not words[0] and files[found[0]] is None
                told.setdefault(found[0], []).append((*prompts(found[0].read_bytes()), simple) if empty else words)
            else:
                name = (table.parent.relative_to(folder) / str(row["file_name"])).as_posix()
                missing.append((name, words, "more than one file" if found else "file missing"))
    return told, missing


def _table(file: Path) -> pd.DataFrame:
    try:
        table = READERS[file.name](file)
    except Exception as error:  # a stranger's table can break its reader in any way
        raise ValueError(f"{file} cannot be read ({error}): mend or remove it") from error
    if "file_name" not in table:
        raise ValueError(f"{file} has no column file_name, but {', '.join(map(str, table))[:200] or 'none'}: name each picture in one")
    return table


def _parquet(file: Path) -> pd.DataFrame:
    """What is said of pandas in it is not believed."""
    with pq.ParquetFile(file) as opened:
        if opened.metadata.num_rows > file.stat().st_size:  # each picture has a name of its own
            raise ValueError(f"{opened.metadata.num_rows} rows in {file.stat().st_size} bytes")
        return opened.read().replace_schema_metadata(None).to_pandas()


def _first(row: dict, *keys: str) -> str | None:
    """The first of some columns that the table has; `text` is the prompt only where there is no other."""
    value = next((row[key] for key in keys if key in row), None)
    return value.strip() or None if isinstance(value, str) else None


def _index(files: list[Path]) -> dict[tuple[str, Path | str], list[Path]]:
    """How a row may call a picture: by path or by name, its extension or not (SURD leaves out both folder and extension)."""
    index = defaultdict(list)
    for f in files:
        for key in (("path", f), ("path", f.with_suffix("")), ("name", f.name), ("name", f.stem)):
            index[key].append(f)
    return index


def _find(index: dict, folder: Path, name: str) -> list[Path]:
    """The picture a row means; none, or more than one, where the row does not say."""
    return index.get(("path", folder / name)) or index.get(("name", name)) or []
