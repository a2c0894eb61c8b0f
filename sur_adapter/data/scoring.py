"""Scores the shards of raw folders with one plug-in of data/scores; `stages/score.py` runs it."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from sur_adapter.executors.base import ShardResult
from sur_adapter.io.raw_shards import captions_file, read_shard
from sur_adapter.io.shards import read_table, write_table
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.registry import load


def scores_file(source: str, number: str) -> str:
    """The name in the work cache of the table with the scores of one shard."""
    return f"{source}-{number}.parquet"


class ScoreWorker:
    """Scores one shard, given by (source, number), with the plug-in `name`; its table of id and measures is kept in `work`."""

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
            values = table[["id", measure]].rename(columns={measure: "value"})
            write_table(out / measure / f"{source}.parquet", values, _schema(values.value))


def _schema(values: pd.Series) -> pa.Schema:
    is_text = values.map(lambda value: isinstance(value, str)).any()
    return pa.schema([("id", pa.string()), ("value", pa.string() if is_text else pa.float64())])


def _with_captions(rows: pd.DataFrame, captions: Path) -> pd.DataFrame:
    """The rows, `simple_prompt` as captioned, in the same order; None for missing values."""
    rows = rows.drop(columns="simple_prompt").merge(read_table(captions), "left", "id", validate="1:1")
    return rows.astype(object).where(rows.notna(), None)
