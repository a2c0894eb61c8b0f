"""score: how well each kept picture and its words agree, by one measure.

The score is the last part of the path: `data/scores/phash` is filled by sur_adapter/scores/phash.py. One that takes several
measures at one look writes a table for each: clip_simple and clip_complex lie in `data/scores/clip/simple` and `…/complex`.
A run that was killed goes on at the shard where it was.
"""

from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from sur_adapter.engine import Engine, Made
from sur_adapter.pictures import members, numbers, shard
from sur_adapter.provenance import revision
from sur_adapter.records import read_table, write_table
from sur_adapter.schema import plugin, settings
from sur_adapter.work import Work, digest, stamp


def score(raw: Path, captions: Path, out: Path, *, scores: dict, sources: dict, engine: dict | None = None) -> None:
    lane = out.name
    measure = plugin("sur_adapter.scores", lane)
    rules = settings(measure.score, scores.get(lane), f"scores.{lane}")
    about = {"settings": rules, "files": stamp(*rules.values()), "tables": [digest(folder, "*.parquet") for folder in (raw, captions)]}

    def reads(task: tuple[str, str]) -> list:
        source, number = task
        return [*rules.values(), *members(raw / source, number), _captions(captions, *task)]

    with (
        Work(f"score-{lane}", **about, code=revision(__file__, measure.__file__)) as work,
        Engine(partial(Scores, work, raw, captions, lane, rules), reads, **settings(Engine, engine, "engine")) as workers,
    ):
        shards = [(source, number) for source in sources for number in numbers(raw / source)]
        for _ in workers.map([task for task in shards if work.done(_name(*task)) is None], f"score {lane}"):
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
    """A worker (engine.py): source and number of a shard to the table of its scores."""

    def __init__(self, work: Work, raw: Path, captions: Path, lane: str, rules: dict):
        self.work, self.raw, self.captions, self.lane, self.rules = work, raw, captions, lane, rules
        self.measure = plugin("sur_adapter.scores", lane)

    def __call__(self, task: tuple[str, str]) -> Made:
        source, number = task
        rows, look = shard(self.raw / source, number)
        rows = _rows(rows, _captions(self.captions, *task))
        pictures = tqdm(look(), f"{self.lane} {source} {number}", len(rows), unit="picture", disable=None)
        with self.work.put(_name(*task)) as part:
            write_table(part, _table(rows.id, self.measure.score(pictures, rows.to_dict("records"), **self.rules)))
        return Made.of(self.work.folder / _name(*task), len(rows))


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
