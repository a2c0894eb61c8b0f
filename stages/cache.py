"""cache: what the frozen models see, computed once. The lane is the name of the folder it writes.

A lane that was killed goes on after its last finished shard; the bank of queries, a minute's work, begins anew.
"""

from pathlib import Path

from sur_adapter.config import settings
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.shards import read_table
from sur_adapter.registry import load


def cache(pairs: Path, raw: Path, out: Path, *, cache: dict, models: dict, executor: dict | None = None) -> None:
    lane = out.name
    features = load("sur_adapter.features.extractors", lane)
    values = settings(features.write, cache.get(lane), f"cache.{lane}")
    rows = read_table(pairs)
    kept = rows[rows["dropped"].isna()]
    if kept.empty:
        raise ValueError(f"{pairs} holds no kept pair: loosen the thresholds of params.yaml: filter")
    pictures = ImageIndex(raw, set(kept["id"])) if lane in ("vae", "queries") else {}
    features.write(kept, pictures, out, models, executor, **values)
