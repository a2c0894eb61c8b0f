"""Reads the prompts of evaluation sets, whatever their format, so that no sentence near one is trained on."""

import json
from collections.abc import Iterator
from pathlib import Path

from sur_adapter.data.sentences.file import read_utf8

KEYS = ("prompt", "Prompt", "sentence", "caption", "text")  # of an object, or a column: the first that is there
SUFFIXES = (".jsonl", ".json", ".tsv", ".txt")


def read_held_out(paths: tuple[str, ...]) -> list[str]:
    """Reads all prompts of files and of folders with those below them: JSON lines, JSON lists, tables with tabs, or one prompt a line.

    Raises FileNotFoundError for a missing path, ValueError for one that holds no prompt or cannot be read.
    """
    return [prompt for path in paths for prompt in _read_path(Path(path))]


def _read_path(path: Path) -> list[str]:
    if not path.exists():
        raise FileNotFoundError(f"params.yaml: sentences.held_out: {path} is missing: name folders or files of evaluation prompts")
    files = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES and f.is_file()) if path.is_dir() else [path]
    prompts = [prompt for file in files for prompt in _read_file(file)]
    if not prompts:
        raise ValueError(f"params.yaml: sentences.held_out: {path} holds no prompt: name files of {', '.join(SUFFIXES)}, or remove it")
    return prompts


def _read_file(file: Path) -> Iterator[str]:
    text = read_utf8(file)
    lines = [(f"{file}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if text.lstrip().startswith("["):
        yield from (_prompt(entry, f"{file}, entry {n}") for n, entry in enumerate(_parse(text, str(file)), 1))
    elif file.suffix in (".jsonl", ".json"):
        yield from (_prompt(_parse(line, place), place) for place, line in lines)
    elif file.suffix == ".tsv" and lines:
        columns = lines[0][1].strip("\r\n").split("\t")
        yield from (_prompt(dict(zip(columns, line.split("\t"), strict=False)), place) for place, line in lines[1:])
    else:
        yield from (line.strip() for _, line in lines)


def _parse(text: str, place: str) -> object:
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{place}: not JSON ({str(error)[:100]}): correct it, or remove it from sentences.held_out") from error


def _prompt(entry: object, place: str) -> str:
    values = [entry[key] for key in KEYS if isinstance(entry.get(key), str)] if isinstance(entry, dict) else [entry]
    if not values or not isinstance(values[0], str):
        raise ValueError(f"{place}: no prompt: give each a text under `prompt`, or remove the file from sentences.held_out")
    return values[0]
