"""The data contract, told once: what a row holds, and how rows lie in shards.

Pixels in tar (WebDataset), words in Parquet, one id ties them: the first sixteen hex digits of the SHA-256 of the
picture's bytes. Everything written here is byte-identical when its content is: no clock, no user, fixed order;
and it is there whole, or not at all.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pyarrow as pa

SHARD = 2048  # rows a shard

RAW = pa.schema(
    [
        ("id", pa.string()),  # of the picture's bytes; of the address where none came
        ("source", pa.string()),
        ("url", pa.string()),
        ("user", pa.string()),  # forget.mark of the name, which is kept nowhere; null where the source tells none
        ("complex_prompt", pa.string()),  # as found
        ("clean_prompt", pa.string()),  # as models read it (wording.py)
        ("prompt_by", pa.string()),  # null: as found; or what made the prompt up, which no test split may hold
        ("negative_prompt", pa.string()),
        ("simple_prompt", pa.string()),  # where a source has one of its own; null where the captioner is asked
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("nsfw", pa.string()),
        ("licence", pa.string()),
        ("dropped", pa.string()),  # reason, or null
    ]
)
CAPTIONS = pa.schema([("id", pa.string()), ("simple_prompt", pa.string())])


def record_id(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]


def check_id(file: Path, key: str, data: bytes) -> None:
    """ValueError where bytes out of `file` are not those that the crawl named by their digest."""
    if record_id(data) != key:
        raise ValueError(f"{file}: the picture {key} is not what was crawled: `python -m stages verify` says how to mend it")


def group_split(group: str, test: float, validation: float) -> str:
    """ "train" | "validation" | "test": a function of the group's id alone, the same on every machine."""
    share = int(sha256(f"split {group}".encode()).hexdigest()[:8], 16) / 2**32
    return "test" if share < test else "validation" if share < test + validation else "train"


def shards(pairs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """("train-000000", its rows): by split, in the order of the pairs. Shard k of every cache holds the same ids."""
    for split in ("test", "train", "validation"):
        rows = pairs[pairs["split"] == split]
        for k in range(0, len(rows), SHARD):
            yield f"{split}-{k // SHARD:06d}", rows.iloc[k : k + SHARD]
