"""Samples that were asked to be taken out: gone from the raw shards, and known again without being kept.

What is remembered are SHA-256 hashes of addresses and ids, a line each, never the addresses themselves.
A forgotten row stays, so that rows still add up: without prompts, address and picture, `dropped` = "forgotten".
"""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from sur_adapter.io.schema import RAW, record_id
from sur_adapter.io.shards import read_table, read_tar, write_table, write_tar

EMPTY = (
    "url",
    "user",
    "complex_prompt",
    "clean_prompt",
    "prompt_by",
    "negative_prompt",
    "simple_prompt",
    "width",
    "height",
    "nsfw",
    "licence",
)


def remembered(memory: Path) -> set[str]:
    """The hashes in a file; none where there is no file. Lines that start with # say what it is."""
    lines = memory.read_text().split("\n") if memory.exists() else []
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def mark(word: str) -> str:
    return sha256(word.encode("utf-8", "replace")).hexdigest()


def asked(row: dict, marks: set[str]) -> bool:
    """Whether a row was asked to be forgotten: by its id, address or user (as `mark` has it); what of them it has."""
    return row.get("user") in marks or any(mark(str(row[key])) in marks for key in ("id", "url") if row.get(key) is not None)


def emptied(row: dict) -> dict:
    """What stays of a forgotten row: an id that is its address's, as of rows without a picture, its source, the reason."""
    return row | dict.fromkeys(EMPTY) | {"id": record_id(mark(str(row["url"])).encode()), "dropped": "forgotten"}


def forget(what: str, raw: Path, memory: Path) -> int:
    """How many rows were taken out of the sources under `raw`: those whose id, url or user is `what`, and others of the same bytes.

    Remembers first and takes out after: if it is stopped between, the next call finishes. Raises ValueError where nothing is found.
    """
    sources = sorted({file.parent for file in raw.glob("*/prompts-*.parquet")})
    found = [_matching(read_table(source), what) for source in sources]
    words = sorted({mark(word) for rows in found for word in (*rows.id, *rows.url.dropna())} | {mark(what)})
    count = sum(len(rows) for rows in found)
    if count == 0:
        raise ValueError(f"no row under {raw} has the id, url or user {what!r}: look it up in data/pairs.parquet or data/raw")
    _remember(memory, words)
    for source in sources:
        _take_out(source, remembered(memory))
    return count


def _matching(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    hit = (rows.id == what) | (rows.url == what) | (rows.user == mark(what))
    return rows[hit | rows.id.isin(set(rows.id[hit]))]


def _remember(memory: Path, words: Iterable[str]) -> None:
    known = sorted(remembered(memory) | set(words))
    new = memory.with_suffix(".new")
    new.write_text("\n".join(["# SHA-256 of ids, addresses and users that no crawl keeps again", *known]) + "\n")
    new.replace(memory)


def _take_out(source: Path, marks: set[str]) -> None:
    """Rewrites the shards that hold a row to forget; the others keep their bytes."""
    for table in sorted(source.glob("prompts-*.parquet")):
        rows = pq.read_table(table).to_pylist()
        gone = {row["id"] for row in rows if asked(row, marks)}
        if not gone:
            continue
        tar = source / table.name.replace("prompts", "images").replace(".parquet", ".tar")
        kept = [member for member in read_tar(tar) if member[0] not in gone]
        write_tar(tar.with_suffix(".new"), kept)
        tar.with_suffix(".new").replace(tar)
        write_table(table, [emptied(row) if row["id"] in gone else row for row in rows], RAW)
