"""Sentences from files: text with one sentence a line, JSON lines, or Parquet.

JSON lines and Parquet have the key or column `sentence`, and may have `kind`, `expected`, `answer`, `mean_logprob` and `min_logprob`
(base.py); others are ignored. With `answer` no language model is needed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from sur_adapter.io.shards import read_table

TEXTS = ("kind", "expected", "answer")
NUMBERS = ("mean_logprob", "min_logprob")
SUFFIXES = (".txt", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Config:
    """Section `sentences.sources.file` of params.yaml. path: a file, relative to the project, or a list of files."""

    path: str | tuple[str, ...]


def rows(config: Config, pairs: Path) -> Iterator[dict]:
    """Yields the sentences of the files in their order.

    Raises FileNotFoundError for a missing file; ValueError for one of another kind, that is empty, is not UTF-8, or has no `sentence`.
    """
    paths = (config.path,) if isinstance(config.path, str) else config.path
    for file in map(Path, paths):
        if not file.is_file():
            raise FileNotFoundError(f"params.yaml: sentences.sources.file.path: {file} is no file: name one of {', '.join(SUFFIXES)}")
        if file.suffix not in SUFFIXES:
            raise ValueError(f"params.yaml: sentences.sources.file.path: {file} is none of {', '.join(SUFFIXES)}: convert it to one")
        count = 0
        for place, row in _read(file):
            yield _checked(row, place)
            count += 1
        if not count:
            raise ValueError(f"{file} holds no sentence: write at least one, or remove it from sentences.sources.file")


def _read(file: Path) -> Iterator[tuple[str, object]]:
    """Yields (place for errors, row) of each sentence."""
    if file.suffix == ".parquet":
        table = read_table(file)
        if "sentence" not in table:
            raise ValueError(f"{file} has no column sentence, but {', '.join(map(str, table))[:200] or 'none'}: rename the one with them")
        for number, row in enumerate(table.to_dict("records"), 1):
            yield f"{file}, row {number}", row
        return
    for number, line in enumerate(read_utf8(file).split("\n"), 1):
        if line.strip():
            place = f"{file}, line {number}"
            yield place, {"sentence": line.strip()} if file.suffix == ".txt" else _parse(line, place)


def read_utf8(file: Path) -> str:
    """Reads a text file. Raises ValueError if it is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error


def _parse(line: str, place: str) -> object:
    try:
        return json.loads(line)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{place}: not JSON ({str(error)[:100]}): write one object per line") from error


def _checked(row: object, place: str) -> dict:
    """Returns the known keys of a row of an untrusted file; raises ValueError for a sentence that is no text or a bad number."""
    if not isinstance(row, dict) or not isinstance(row.get("sentence"), str):
        raise ValueError(f"{place}: no text under `sentence`: give each row one")
    result = {"sentence": row["sentence"]} | {key: row[key] for key in TEXTS if isinstance(row.get(key), str) and row[key].strip()}
    for key in NUMBERS:
        value = row.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            if value > 0:
                raise ValueError(f"{place}: {key} is {value}: a log-probability is 0 or less")
            result[key] = float(value)
    if any("\ud800" <= c <= "\udfff" for text in result.values() if isinstance(text, str) for c in text):
        raise ValueError(f"{place}: half a character (a lone surrogate such as \\ud800), which no file can hold: remove it")
    return result
