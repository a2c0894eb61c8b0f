"""score: how well each kept picture and its words agree, by one measure.

The measure is the last part of the path: `data/scores/clip_simple` is filled by sur_adapter/scores/clip_simple.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from sur_adapter.pictures import kept
from sur_adapter.records import read_table, write_table
from sur_adapter.schema import plugin, settings


def score(raw: Path, captions: Path, out: Path, *, scores: dict, sources: dict) -> None:
    measure = plugin("sur_adapter.scores", out.name)
    rules = settings(measure.score, scores.get(out.name), f"scores.{out.name}")
    for old in out.glob("*.parquet"):
        old.unlink()
    for source in sources:
        texts = _texts(raw / source, captions / source)
        images = tqdm(_images(raw / source), f"{out.name} {source}", len(texts), unit="picture", disable=None)
        values = measure.score(images, texts.drop(columns="id").to_dict("records"), **rules)
        kind = pa.string() if any(isinstance(v, str) for v in values) else pa.float64()
        table = [{"id": i, "value": v} for i, v in zip(texts.id, values, strict=True)]
        write_table(out / f"{source}.parquet", table, pa.schema([("id", pa.string()), ("value", kind)]))


def _texts(raw: Path, captions: Path) -> pd.DataFrame:
    """id, simple_prompt, complex_prompt, clean_prompt of the rows crawl kept, in their order; null where there is none."""
    rows = read_table(raw)
    texts = rows[rows.dropped.isna()][["id", "complex_prompt", "clean_prompt"]].merge(read_table(captions), "left", "id", validate="1:1")
    return texts.astype(object).where(texts.notna(), None)


def _images(raw: Path) -> Iterator[Image.Image]:
    for _, _, images in kept(raw):
        yield from images
