"""score: how well each kept picture and its words agree, by one measure.

The score is the last part of the path: `data/scores/phash` is filled by sur_adapter/scores/phash.py. One that takes several
measures at one look writes a table for each: clip_simple and clip_complex lie in `data/scores/clip/simple` and `…/complex`.
A run that was killed goes on at the shard where it was.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from sur_adapter.pictures import kept
from sur_adapter.provenance import revision
from sur_adapter.records import read_table, write_table
from sur_adapter.schema import plugin, settings
from sur_adapter.work import Work, digest, stamp


def score(raw: Path, captions: Path, out: Path, *, scores: dict, sources: dict) -> None:
    lane = out.name
    measure = plugin("sur_adapter.scores", lane)
    rules = settings(measure.score, scores.get(lane), f"scores.{lane}")
    about = {"settings": rules, "files": stamp(*rules.values()), "tables": [digest(folder, "*.parquet") for folder in (raw, captions)]}
    with Work(f"score-{lane}", **about, code=revision(__file__, measure.__file__)) as work:
        for source in sources:
            for number, rows, look in kept(raw / source):
                if work.done(name := f"{source}-{number}.parquet") is None:
                    rows = _rows(rows, captions / source / f"captions-{number}.parquet")
                    pictures = tqdm(look(), f"{lane} {source} {number}", len(rows), unit="picture", disable=None)
                    write_table(work.folder / name, _table(rows.id, measure.score(pictures, rows.to_dict("records"), **rules)))
        for old in out.rglob("*.parquet"):
            old.unlink()
        for source in sources:
            values = pd.concat([read_table(file) for file in sorted(work.folder.glob(f"{source}-[0-9]*.parquet"))])
            for column in values.columns[1:]:
                write_table(
                    out / column / f"{source}.parquet", values[["id", column]].rename(columns={column: "value"}), _schema(values[column])
                )


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
