"""A folder of one's own pictures, with all that is below it.

The prompt of a picture is the first of: a row of metadata.jsonl, .csv or .parquet (a Hugging Face image folder, SURD),
a text file of the picture's name, what its generator wrote into it. Metadata with both `prompt` and `text` tells the simple prompt too.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sur_adapter.embedded import parameters, prompts
from sur_adapter.schema import settings

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
READERS = {
    "metadata.jsonl": lambda f: pd.read_json(f, lines=True, dtype=False),
    "metadata.csv": lambda f: pd.read_csv(f, dtype=str),
    "metadata.parquet": pd.read_parquet,
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
        from sur_adapter.interrogator import PARAM, Interrogator  # models and labels: loaded where they are asked for

        found = Interrogator(**settings(Interrogator, interrogate, PARAM)).fill(found)
    yield from found


def _rows(folder: Path, files: list[Path]) -> Iterator[dict]:
    told, missing = _told(folder, files)
    for file in files:
        data = file.read_bytes()
        for words in told.get(file) or [_sidecar(file) or prompts(data)]:
            yield _row(file.relative_to(folder).as_posix(), words, data, None)
    for name, words, why in missing:
        yield _row(name, words, None, why)


def _row(name: str, words: tuple[str | None, ...], data: bytes | None, dropped: str | None) -> dict:
    row = {"source": "folder", "url": name} | dict(zip(("complex_prompt", "negative_prompt", "simple_prompt"), words, strict=False))
    return row | {"width": None, "height": None, "nsfw": None, "licence": None, "data": data, "dropped": dropped}


def _sidecar(file: Path) -> tuple[str | None, str | None] | None:
    text = file.with_suffix(".txt")
    return parameters(text.read_text("utf-8-sig", "replace")) if text.is_file() else None


def _told(folder: Path, files: list[Path]) -> tuple[dict[Path, list], list]:
    """(picture -> its (positive, negative, simple) prompts in metadata, [(name, prompts, reason) of rows without a picture])."""
    told: dict[Path, list] = {}
    missing = []
    for table in sorted(f for f in folder.rglob("metadata.*") if f.name in READERS):
        index = _index([f for f in files if f.is_relative_to(table.parent)])
        for row in _table(table).to_dict("records"):
            simple = _first(row, "text") if "prompt" in row or "complex_prompt" in row else None
            words = _first(row, "prompt", "complex_prompt", "text"), _first(row, "negative_prompt", "negativePrompt"), simple
            if len(found := _find(index, table.parent, str(row["file_name"]))) == 1:
                told.setdefault(found[0], []).append(words if words[0] else (*prompts(found[0].read_bytes()), simple))
            else:
                name = (table.parent.relative_to(folder) / str(row["file_name"])).as_posix()
                missing.append((name, words, "more than one file" if found else "file missing"))
    return told, missing


def _table(file: Path) -> pd.DataFrame:
    try:
        table = READERS[file.name](file)
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}): mend or remove it") from error
    if "file_name" not in table:
        raise ValueError(f"{file} has no column file_name, but {', '.join(map(str, table)) or 'none'}: name each picture in one")
    return table


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
