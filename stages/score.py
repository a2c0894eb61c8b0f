"""score: how well each kept picture and its words agree, by one measure.

The score is the last part of the path: `data/scores/phash` is filled by sur_adapter/data/scores/phash.py. One that takes several
measures at one look writes a table for each: clip_simple and clip_complex lie in `data/scores/clip/simple` and `…/complex`.
A run that was killed goes on at the shard where it was.
"""

from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from sur_adapter.config import from_dict, settings
from sur_adapter.executors.base import ExecutorConfig, ShardResult
from sur_adapter.executors.executor import Executor
from sur_adapter.io.code_version import code_version
from sur_adapter.io.raw_shards import members, numbers, shard
from sur_adapter.io.shards import read_table, write_table
from sur_adapter.io.work_cache import WorkCache, digest, file_stats
from sur_adapter.registry import load


def score(raw: Path, captions: Path, out: Path, *, scores: dict, sources: dict, executor: dict | None = None) -> None:
    lane = out.name
    measure = load("sur_adapter.data.scores", lane)
    rules = settings(measure.score, scores.get(lane), f"scores.{lane}")
    about = {"settings": rules, "files": file_stats(*rules.values()), "tables": [digest(folder, "*.parquet") for folder in (raw, captions)]}

    def reads(task: tuple[str, str]) -> list:
        source, number = task
        return [*rules.values(), *members(raw / source, number), _captions(captions, *task)]

    with (
        WorkCache(f"score-{lane}", **about, code=code_version(__file__, measure.__file__)) as work,
        Executor(partial(Scores, work, raw, captions, lane, rules), reads, from_dict(ExecutorConfig, executor, "executor")) as workers,
    ):
        shards = [(source, number) for source in sources for number in numbers(raw / source)]
        for _ in workers.map([task for task in shards if work.get(_name(*task)) is None], f"score {lane}"):
            pass
        for old in out.rglob("*.parquet"):
            old.unlink()
        for source in sources:
            values = pd.concat([read_table(file) for file in sorted(work.folder.glob(f"{source}-[0-9]*.parquet"))])
            for column in values.columns[1:]:
                write_table(
                    out / column / f"{source}.parquet", values[["id", column]].rename(columns={column: "value"}), _schema(values[column])
                )


def _name(source: str, number: str) -> str:
    return f"{source}-{number}.parquet"


def _captions(captions: Path, source: str, number: str) -> Path:
    return captions / source / f"captions-{number}.parquet"


class Scores:
    """A worker (executor.py): source and number of a shard to the table of its scores."""

    def __init__(self, work: WorkCache, raw: Path, captions: Path, lane: str, rules: dict):
        self.work, self.raw, self.captions, self.lane, self.rules = work, raw, captions, lane, rules
        self.measure = load("sur_adapter.data.scores", lane)

    def __call__(self, task: tuple[str, str]) -> ShardResult:
        source, number = task
        rows, look = shard(self.raw / source, number)
        rows = _rows(rows, _captions(self.captions, *task))
        pictures = tqdm(look(), f"{self.lane} {source} {number}", len(rows), unit="picture", disable=None)
        with self.work.open(_name(*task)) as part:
            write_table(part, _table(rows.id, self.measure.score(pictures, rows.to_dict("records"), **self.rules)))
        return ShardResult.of(self.work.folder / _name(*task), len(rows))


def _table(ids: pd.Series, values: dict[str, list] | list) -> pd.DataFrame:
    """A column for each measure; one that has no name lies in the score's own folder."""
    return pd.DataFrame({"id": ids} | (values if isinstance(values, dict) else {"": values}))


def _schema(values: pd.Series) -> pa.Schema:
    text = values.map(lambda value: isinstance(value, str)).any()
    return pa.schema([("id", pa.string()), ("value", pa.string() if text else pa.float64())])


def _rows(rows: pd.DataFrame, captions: Path) -> pd.DataFrame:
    """What is known of the rows crawl kept, in their order: as crawled, and simple_prompt; null where there is none."""
    rows = rows.drop(columns="simple_prompt").merge(read_table(captions), "left", "id", validate="1:1")
    return rows.astype(object).where(rows.notna(), None)
