"""The data contract: the columns of the tables, the ids, and how rows are split and sharded.

Pixels are stored in WebDataset tars and text in Parquet; an id joins them: the first 16 hex digits of the SHA-256 of the image's bytes.
An image with several captions has a row for each: `<id>` is its first, `<id>-1` the second (see `caption_id`).
Equal content gives equal bytes: no timestamps, no user names, fixed order.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa

from sur_adapter.io.hashing import short_digest

ROWS_PER_SHARD = 2048

RAW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # of the image's bytes; of its url if none were received
        ("source", pa.string()),
        ("url", pa.string()),
        ("user", pa.string()),  # SHA-256 of the user name, which is stored nowhere; null if the source has none
        ("complex_prompt", pa.string()),  # the keyword prompt, as received
        ("clean_prompt", pa.string()),  # cleaned for the models (data/prompts/cleaning.py)
        ("prompt_by", pa.string()),  # null: a person; else the tool that generated the prompt, never part of the test split
        ("negative_prompt", pa.string()),
        ("simple_prompt", pa.string()),  # the source's own caption; null if the captioner writes it
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("nsfw", pa.string()),
        ("licence", pa.string()),
        ("dropped", pa.string()),  # the reason, or null if the row is kept
    ]
)
CAPTIONS_SCHEMA = pa.schema([("id", pa.string()), ("simple_prompt", pa.string())])  # id: of the caption


def record_id(data: bytes) -> str:
    """Returns the id of an image: the digest of its bytes."""
    return short_digest(data)


def caption_id(image: str, number: int) -> str:
    """Returns the id of an image's caption, numbered from 0; that of the first is the id of the image."""
    return f"{image}-{number}" if number else image


def image_id(key: str) -> str:
    """Returns the id of the image of a caption, or of an image itself."""
    return key.partition("-")[0]


def has_further_captions(ids: pd.Series) -> bool:
    """Tells whether one of the ids is of a caption other than the first of its image."""
    return bool(ids.str.contains("-", regex=False, na=False).any())


def image_ids(ids: pd.Series) -> pd.Series:
    """Returns the ids of the images of captions, null where there is no id. If each image has one caption, they are the same."""
    return ids.map(image_id, na_action="ignore") if has_further_captions(ids) else ids


def check_id(file: Path, key: str, data: bytes) -> None:
    """Raises ValueError if the bytes of image `key`, read from `file`, do not match its id."""
    if record_id(data) != key:
        raise ValueError(f"{file}: image {key} is corrupt, its bytes do not match its id: `python -m stages verify` says how to repair it")


def assign_split(group: str, test: float, validation: float) -> str:
    """Returns "train", "validation" or "test" for a near-duplicate group; depends on nothing but its id and the shares."""
    share = int(short_digest(f"split {group}")[:8], 16) / 2**32
    return "test" if share < test else "validation" if share < test + validation else "train"


def split_shards(pairs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yields (name such as "train-000000", rows) by split, in the order of `pairs`: shard k of each feature cache has the same ids."""
    for split in ("test", "train", "validation"):
        rows = pairs[pairs["split"] == split]
        for k in range(0, len(rows), ROWS_PER_SHARD):
            yield f"{split}-{k // ROWS_PER_SHARD:06d}", rows.iloc[k : k + ROWS_PER_SHARD]
