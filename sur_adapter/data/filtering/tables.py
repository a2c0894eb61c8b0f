"""Reads and joins the tables of crawl, caption and score, and writes the pairs."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sur_adapter.data.filtering.filtering import SPLITS
from sur_adapter.io.schema import caption_id, has_further_captions, image_ids
from sur_adapter.io.shards import read_table, write_table

CRAWLED = ["id", "source", "complex_prompt", "clean_prompt", "prompt_by", "width", "height", "nsfw", "licence", "dropped"]


def score_tables(folder: Path, scores: Mapping[str, Mapping | None]) -> dict[str, Path]:
    """Maps score names to the folders of their tables, from the section `scores`: phash/, or clip/simple/ for the measure clip_simple."""
    tables = {}
    for name, settings in scores.items():
        measures = (settings or {}).get("measures")
        tables |= {f"{name}_{measure}": folder / name / measure for measure in measures} if measures else {name: folder / name}
    return tables


def join_tables(raw: Path, captions: Path, scores: Mapping[str, Path], sources: list[str]) -> pd.DataFrame:
    """Joins all rows of all sources with their captions and scores by id; an image with several captions has a row for each.

    Rows that the crawl dropped have null there. The crawl's column `nsfw` becomes `nsfw_level`, since a score may be named nsfw. An image
    that two sources hold counts once: the later row is dropped as `duplicate`.
    """
    table = _read_all(raw, sources, CRAWLED).rename(columns={"nsfw": "nsfw_level"})
    kept = table.dropped.isna()
    table.loc[kept & table.id.where(kept).duplicated(), "dropped"] = "duplicate"
    captions = _read_all(captions, sources, ["id", "simple_prompt"])
    table = _repeat_for_captions(table, captions.id)
    ids = table.id.where(table.dropped.isna())  # null for a duplicate: it has its original's id, but not its scores
    table["simple_prompt"] = _look_up(pa.array(ids), captions)
    images = image_ids(ids)
    for name, folder in scores.items():
        values = _read_all(folder, [f"{source}.parquet" for source in sources], ["id", "value"])
        table[name] = _look_up(pa.array(ids if has_further_captions(values.id) else images), values)
    return table


def _repeat_for_captions(table: pd.DataFrame, captions: pd.Series) -> pd.DataFrame:
    """Repeats each row that is not dropped for all captions of its image, and gives it the id of the caption. captions: their ids."""
    if not has_further_captions(captions):
        return table
    images = image_ids(captions)
    counts = images[(images != captions) & ~captions.duplicated()].value_counts()  # two sources may hold the same image
    repeats = 1 + table.id.where(table.dropped.isna()).map(counts).fillna(0).astype(int)
    table = table.loc[table.index.repeat(repeats)]
    number = table.groupby(level=0).cumcount()
    table["id"] = [caption_id(image, k) for image, k in zip(table.id, number, strict=True)]
    return table.reset_index(drop=True)


def _look_up(ids: pa.Array, table: pd.DataFrame) -> np.ndarray | pd.api.extensions.ExtensionArray:
    """Looks up the second column of `table` by the ids of its first; null where there is none."""
    index = pc.index_in(ids, value_set=pa.array(table.id), skip_nulls=True).fill_null(-1)
    return pd.api.extensions.take(table[table.columns[1]].array, index.to_numpy(), allow_fill=True)


def _read_all(folder: Path, names: list[str], columns: list[str]) -> pd.DataFrame:
    return pd.concat([read_table(folder / name, columns) for name in names], ignore_index=True)


def read_frozen_splits(file: Path) -> pd.Series:
    """Reads a CSV table of an image's id and split as id -> split.

    Raises FileNotFoundError if it is missing, ValueError if it is not such a table.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: write a table of id and split there, or only its header (id,split) to freeze nothing")
    try:
        table = pd.read_csv(file, dtype=str)
    except (ValueError, OSError):  # not CSV, or not text
        table = pd.DataFrame()
    if not {"id", "split"} <= set(table) or not table.split.isin(SPLITS).all() or table.id.duplicated().any():
        raise ValueError(f"{file} is not a table of id and split: give each id once, with one of {', '.join(SPLITS)} as its split")
    return table.set_index("id").split


def write_pairs(file: Path, table: pd.DataFrame, scores: Iterable[str]) -> None:
    """Writes all rows, sorted by id. The written columns are removed from `table`, so that none is held twice in memory."""
    columns = ["id", "source", "simple_prompt", "complex_prompt", "clean_prompt", *scores, "dropped", "group", "split"]
    order = table.id.array.argsort(kind="stable")
    write_table(file, pd.DataFrame({column: table.pop(column).array.take(order) for column in columns}))
