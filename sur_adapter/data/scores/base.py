"""The contract of a score, and the worker that runs one on the shards of raw folders.

To add a score, write `<name>.py` in this folder with a frozen dataclass `Config` (its keys in params.yaml, empty if it has none) and a
function `score` as below. A score measures; only `filter` decides, by `filter.<score>`, the lowest value that is kept.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from sur_adapter.executors.base import ShardResult
from sur_adapter.io.raw_shards import captions_file, read_shard
from sur_adapter.io.schema import caption_id, image_ids
from sur_adapter.io.shards import read_table, write_table
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.registry import load


class Score(Protocol):
    """A module of this package."""

    Config: type  # a frozen dataclass

    def score(self, images: Iterable[Image.Image], rows: list[dict], config: Any) -> list | dict[str, list]:
        """Scores the rows of one shard.

        images: N images (RGB), in the order of the rows; they are decoded on iteration, so a score that needs none costs no decoding.
        rows: N dicts of the columns of `RAW_SCHEMA`; `captions`, the list of the image's captions, takes the place of `simple_prompt`. None
        where there is no value. config: a `Config`.

        Returns N numbers or texts, None where there is nothing to measure. A score of captions returns N lists instead, with a value for
        each caption of the row. A score of several measures has a key `measures`, their names, and returns a dict of such lists, one for
        each: they become the scores `<name>_<measure>`. Raises ValueError or FileNotFoundError, with the key of params.yaml, if the
        configuration cannot be used.
        """
        ...


def scores_file(source: str, number: str) -> str:
    """Returns the name in the work cache of the table with the scores of one shard."""
    return f"{source}-{number}.parquet"


class ScoreWorker:
    """Scores one shard, given by (source, number), with the plug-in `name`; its table of id and measures is kept in `work`.

    Values of captions are lists there.
    """

    def __init__(self, work: WorkCache, raw: Path, captions: Path, name: str, config: Any):
        self.work, self.raw, self.captions, self.name, self.config = work, raw, captions, name, config
        self.plugin = load("sur_adapter.data.scores", name)

    def __call__(self, task: tuple[str, str]) -> ShardResult:
        source, number = task
        rows, read_images = read_shard(self.raw / source, number)
        rows = _with_captions(rows, self.captions / source / captions_file(number))
        images = tqdm(read_images(), f"{self.name} {source} {number}", len(rows), unit="image")
        values = self.plugin.score(images, rows.to_dict("records"), self.config)
        table = pd.DataFrame({"id": rows.id} | (values if isinstance(values, dict) else {"": values}))
        with self.work.open(scores_file(*task)) as part:
            write_table(part, table)
        return ShardResult.of(self.work.folder / scores_file(*task), len(rows))


def write_scores(work: WorkCache, sources: list[str], out: Path) -> None:
    """Joins the shards of each source into `out`/<source>.parquet, or `out`/<measure>/<source>.parquet for a score of several measures."""
    for old in out.rglob("*.parquet"):
        old.unlink()
    for source in sources:
        table = pd.concat([read_table(file) for file in sorted(work.folder.glob(scores_file(source, "[0-9]*")))])
        for measure in table.columns[1:]:
            values = _per_caption(table[["id", measure]].set_axis(["id", "value"], axis=1))
            write_table(out / measure / f"{source}.parquet", values, _schema(values.value))


def _per_caption(table: pd.DataFrame) -> pd.DataFrame:
    """Gives each caption a row, if the values are lists of the images' captions; else returns the table."""
    if not table.value.map(lambda value: isinstance(value, list | np.ndarray)).any():
        return table
    rows = [(caption_id(image, k), value) for image, values in table.itertuples(index=False) for k, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["id", "value"])


def _schema(values: pd.Series) -> pa.Schema:
    is_text = values.map(lambda value: isinstance(value, str)).any()
    return pa.schema([("id", pa.string()), ("value", pa.string() if is_text else pa.float64())])


def _with_captions(rows: pd.DataFrame, captions: Path) -> pd.DataFrame:
    """Puts the captions of each row into `captions`, [None] for an image without one; missing values become None."""
    table = read_table(captions)
    by_image = table.simple_prompt.groupby(image_ids(table.id), sort=False).agg(list)
    rows = rows.drop(columns="simple_prompt").astype(object).where(rows.notna(), None)
    return rows.assign(captions=[by_image.get(image, [None]) for image in rows.id])
