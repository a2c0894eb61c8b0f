"""A folder of features that no loss reads: empty.json alone, with the reason, so that the folder exists for the stages after it.

It is in its own module, without numpy and torch, because it takes a stage less time to write than these take to load.
"""

import json
from pathlib import Path

from sur_adapter.io.atomic import atomic_write_text

EMPTY_FILE = "empty.json"


def write_empty(folder: Path, features: str, reason: str) -> None:
    """Leaves in a folder nothing but empty.json. features: their name. reason: why nothing reads them, as part of a sentence."""
    for old in folder.glob("*.parquet"):
        old.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / EMPTY_FILE, json.dumps({"features": features, "rows": 0, "reason": reason}, indent=1) + "\n")


def read_reason(folder: Path) -> str | None:
    """Returns why a folder was left empty; None if it was not."""
    file = folder / EMPTY_FILE
    return json.loads(file.read_text(encoding="utf-8"))["reason"] if file.exists() else None
