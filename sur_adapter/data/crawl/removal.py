"""Removes samples on request from the raw shards, and recognises them in later crawls without storing them.

Only SHA-256 hashes of ids, URLs and users are kept, one per line (data/forgotten.txt), never the values themselves. A removed row stays in
its table, so that row counts still add up: without prompts, URL and image, `dropped` = "forgotten".
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.schema import RAW_SCHEMA, image_id, record_id
from sur_adapter.io.shards import read_table, read_tar, write_table, write_tar

KEPT_COLUMNS = ("id", "source", "dropped")  # of a removed row


def read_forgotten(file: Path) -> set[str]:
    """Reads the hashes of a file; empty if there is no file. Lines that start with # are comments."""
    lines = file.read_text().split("\n") if file.exists() else []
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def hash_value(value: str) -> str:
    """Returns the hash by which an id, a URL or a user is recognised. The `user` column holds it instead of the name."""
    return sha256(value.encode("utf-8", "replace")).hexdigest()


def hash_user(row: dict) -> dict:
    """Replaces the user name of a row by its hash."""
    return row | {"user": hash_value(row["user"]) if row.get("user") else None}


def is_forgotten(row: dict, hashes: set[str]) -> bool:
    """Tells whether the id, URL or user (already hashed) of a row is among the hashes."""
    return row.get("user") in hashes or any(hash_value(str(row[key])) in hashes for key in ("id", "url") if row.get(key) is not None)


def redact(row: dict) -> dict:
    """Returns what is stored of a removed row: its source, the reason, and the id of its URL, as rows without an image have."""
    empty = dict.fromkeys(name for name in RAW_SCHEMA.names if name not in KEPT_COLUMNS)
    return row | empty | {"id": record_id(hash_value(str(row["url"])).encode()), "dropped": "forgotten"}


def apply_removals(rows: Iterable[dict], hashes: set[str]) -> Iterator[dict]:
    """Hashes the user of each row; redacts the rows whose user, URL or image bytes are among the hashes."""
    for row in rows:
        row = hash_user(row)
        key = {} if row["data"] is None else {"id": record_id(row["data"])}
        yield redact(row) | {"data": None} if is_forgotten(row | key, hashes) else row


def forget(value: str, raw: Path, file: Path) -> int:
    """Removes the rows under `raw` whose id, URL or user is `value`, and all rows with the same bytes; returns how many.

    The hashes are written to `file` first, the shards are rewritten after: if it is interrupted, the next call finishes. Raises ValueError
    if no row matches.
    """
    sources = sorted({table.parent for table in raw.glob("*/prompts-*.parquet")})
    matches = [_matching(read_table(source), value) for source in sources]
    count = sum(map(len, matches))
    if count == 0:
        raise ValueError(f"no row under {raw} has the id, url or user {value!r}: look it up in data/pairs.parquet or data/raw")
    _add_hashes(file, {hash_value(x) for rows in matches for x in (*rows.id, *rows.url.dropna())} | {hash_value(value)})
    for source in sources:
        _rewrite_shards(source, read_forgotten(file))
    return count


def _matching(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    matches = (rows.id == image_id(value)) | (rows.url == value) | (rows.user == hash_value(value))
    return rows[matches | rows.id.isin(set(rows.id[matches]))]


def _add_hashes(file: Path, hashes: set[str]) -> None:
    known = sorted(read_forgotten(file) | hashes)
    atomic_write_text(file, "\n".join(["# SHA-256 of ids, addresses and users that no crawl keeps again", *known]) + "\n")


def _rewrite_shards(source: Path, hashes: set[str]) -> None:
    """Rewrites the shards that hold a row to remove; all others keep their bytes."""
    for table in sorted(source.glob("prompts-*.parquet")):
        rows = pq.read_table(table).to_pylist()
        removed = {row["id"] for row in rows if is_forgotten(row, hashes)}
        if not removed:
            continue
        tar = source / table.name.replace("prompts", "images").replace(".parquet", ".tar")
        write_tar(tar, [member for member in read_tar(tar) if member[0] not in removed])
        write_table(table, [redact(row) if row["id"] in removed else row for row in rows], RAW_SCHEMA)
