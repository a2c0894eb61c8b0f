"""score: how well each kept picture and its words agree, by one measure.

The score is the last part of the path: `data/scores/phash` is filled by sur_adapter/scores/phash.py. One that takes several
measures at one look writes a table for each: clip_simple and clip_complex lie in `data/scores/clip/simple` and `…/complex`.
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
    for old in out.rglob("*.parquet"):
        old.unlink()
    for source in sources:
        rows = _rows(raw / source, captions / source)
        images = tqdm(_images(raw / source), f"{out.name} {source}", len(rows), unit="picture", disable=None)
        values = measure.score(images, rows.to_dict("records"), **rules)
        for name, column in (values if isinstance(values, dict) else {"": values}).items():
            _write(out / name / f"{source}.parquet", rows.id, column)


def _write(file: Path, ids: pd.Series, values: list) -> None:
    kind = pa.string() if any(isinstance(v, str) for v in values) else pa.float64()
    table = [{"id": i, "value": v} for i, v in zip(ids, values, strict=True)]
    write_table(file, table, pa.schema([("id", pa.string()), ("value", kind)]))


def _rows(raw: Path, captions: Path) -> pd.DataFrame:
    """What is known of the rows crawl kept, in their order: as crawled, and simple_prompt; null where there is none."""
    rows = read_table(raw)
    rows = (
        rows[rows.dropped.isna()].drop(columns="simple_prompt", errors="ignore").merge(read_table(captions), "left", "id", validate="1:1")
    )
    return rows.astype(object).where(rows.notna(), None)


def _images(raw: Path) -> Iterator[Image.Image]:
    for _, _, images in kept(raw):
        yield from images
