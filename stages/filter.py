"""filter: the pairs worth learning from. Everything was measured before; here it is only decided, one reason for each row."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sur_adapter.config import settings
from sur_adapter.data.filtering.data_card import card
from sur_adapter.data.filtering.hamming import close, distinct, groups, unpacked
from sur_adapter.data.filtering.minhash import nearly_equal
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.schema import group_split
from sur_adapter.io.shards import read_table, write_table
from sur_adapter.registry import did_you_mean

CRAWLED = ["id", "source", "complex_prompt", "clean_prompt", "prompt_by", "width", "height", "nsfw", "licence", "dropped"]
ORDER = ("test", "validation", "train")  # of two splits that a frozen file gives one group, the first


def filter(
    raw: Path,
    captions: Path,
    scored: Path,
    pairs: Path,
    funnel: Path,
    splits: Path | None = None,
    *,
    filter: dict,
    sources: dict,
    scores: dict,
) -> None:
    """Beside `funnel` lie funnel.csv, to plot, and data.md, the data card. splits: a frozen table of id and split."""
    tables = tables_of(scored, scores)
    rules = rules_of(filter, tables)
    least = {name: filter[name] for name in tables if name in filter}
    table = decide(join(raw, captions, tables, list(sources)), least, frozen(splits) if splits else None, **rules)
    counts = count(table[["source", "dropped", "split"]])
    atomic_write_text(funnel, json.dumps(counts, indent=2) + "\n")
    steps = {"in": counts["in"]} | dict(sorted(counts["dropped"].items(), key=lambda item: -item[1])) | {"kept": counts["kept"]}
    atomic_write_text(funnel.with_suffix(".csv"), pd.Series(steps, name="rows").rename_axis("step").to_csv(lineterminator="\n"))
    levels = rules.get("nsfw", decide.__kwdefaults__["nsfw"])
    about = card(table, counts, [levels] if isinstance(levels, str) else list(levels))
    atomic_write_text(funnel.parent / "data.md", about)
    columns = ["id", "source", "simple_prompt", "complex_prompt", "clean_prompt", *tables, "dropped", "group", "split"]
    order = table.id.array.argsort(kind="stable")
    write_table(pairs, pd.DataFrame({c: table.pop(c).array.take(order) for c in columns}))  # popped: no column is held twice
    if counts["kept"] == 0:
        most, n = max(counts["dropped"].items(), key=lambda item: item[1])
        raise ValueError(f"none of {counts['in']} rows is kept, {most} took most ({n}): loosen it in params.yaml, section filter")


def tables_of(scored: Path, scores: dict) -> dict[str, Path]:
    """score -> the folder of its tables: phash lies in phash/; clip, which takes `measures`, has clip_simple in clip/simple/."""
    tables = {}
    for lane, rules in scores.items():
        measures = (rules or {}).get("measures")
        tables |= {f"{lane}_{m}": scored / lane / m for m in measures} if measures else {lane: scored / lane}
    return tables


def rules_of(filter: dict, scores: Iterable[str]) -> dict:
    """The settings that are no score's least value, checked; a wrong key may have meant either kind."""
    known = [*decide.__kwdefaults__, *scores]
    for key in filter:
        if key not in known:
            raise ValueError(
                f"params.yaml: filter.{key} is neither a rule nor a score{did_you_mean(key, known)}; known are {', '.join(known)}"
            )
    return settings(decide, {name: value for name, value in filter.items() if name not in scores}, "filter")


def join(raw: Path, captions: Path, scores: dict[str, Path], sources: list[str]) -> pd.DataFrame:
    """Every row of every source as crawled; sentence and scores beside those the crawl kept, null beside the others."""
    table = _all(raw, sources, CRAWLED)
    kept = table.dropped.isna()
    table.loc[kept & table.id.where(kept).duplicated(), "dropped"] = "duplicate"  # two sources may hold one picture
    measured = pa.array(table.id.where(table.dropped.isna()))  # a duplicate has its original's id, and no share in its scores
    table["simple_prompt"] = _beside(measured, _all(captions, sources, ["id", "simple_prompt"]))
    for name, folder in scores.items():
        table[name] = _beside(measured, _all(folder, [f"{s}.parquet" for s in sources], ["id", "value"]))
    return table


def _beside(ids: pa.Array, side: pd.DataFrame) -> np.ndarray | pd.api.extensions.ExtensionArray:
    """The second column of `side` where its first, an id, is each of `ids`; null where it is none."""
    found = pc.index_in(ids, value_set=pa.array(side.id), skip_nulls=True).fill_null(-1)
    return pd.api.extensions.take(side[side.columns[1]].array, found.to_numpy(), allow_fill=True)


def _all(folder: Path, names: list[str], columns: list[str]) -> pd.DataFrame:
    return pd.concat([read_table(folder / name, columns) for name in names], ignore_index=True)


def decide(
    table: pd.DataFrame,
    least: dict[str, float],
    fixed: pd.Series | None = None,
    *,
    min_side: int = 0,
    nsfw: tuple[str, ...] = ("None",),
    duplicate_bits: int = 0,
    prompt_overlap: float | None = None,
    validation: float = 0.05,
    test: float = 0.05,
) -> pd.DataFrame:
    """The table with `dropped`, `group` and `split`. The first reason counts, in the order of these lines.

    least: the least value of a score. nsfw: levels let through; a source that has no levels (null) is let through too.
    prompt_overlap: prompts that share this much of their words are of one group (overlap.py); null: only those of equal words.
    fixed: id -> the split it is frozen to: a group takes the split of its frozen ids, test before validation before train; an id frozen
    to another leaves as `other_split`.
    """
    table = table.copy()

    def drop(reason: str, where: pd.Series) -> None:
        table.loc[table.dropped.isna() & where, "dropped"] = reason

    look, links = looks(table, duplicate_bits)
    drop("no_prompt", table.complex_prompt.isna())
    drop("nsfw", table.nsfw.notna() & ~table.nsfw.isin([nsfw] if isinstance(nsfw, str) else nsfw))
    drop("too_small", table[["width", "height"]].min(axis=1) < min_side)
    drop("no_caption", table.simple_prompt.fillna("").str.strip() == "")
    drop("near_duplicate", repeats(table.dropped.isna().to_numpy(), look, links))
    for score, value in least.items():
        drop(score, ~(pd.to_numeric(table[score]) >= value))  # null is no agreement
    table["group"] = group(table, look, links, prompt_overlap)
    split = {g: group_split(g, test, validation) for g in table.group.dropna().unique()}
    table["split"] = table.group.map(split)
    if fixed is not None and len(fixed):
        own = table.id.map(fixed)
        rank = own.map({name: k for k, name in enumerate(ORDER)}).groupby(table.group).transform("min")
        table["split"] = rank.map(dict(enumerate(ORDER))).fillna(table.split)
        drop("other_split", own.notna() & (own != table.split))
    if "prompt_by" in table:
        drop("made_up_prompt", table.prompt_by.notna() & (table.split == "test"))  # a test asks what people wrote
    return table


def frozen(file: Path) -> pd.Series:
    """id -> split. Raises ValueError or FileNotFoundError for anything but a table of the two."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: write a table of id and split there, or its head alone (id,split) to freeze nothing")
    try:
        table = pd.read_csv(file, dtype=str)
    except (ValueError, OSError):  # no CSV, no text
        table = pd.DataFrame()
    if not {"id", "split"} <= set(table) or not table.split.isin(ORDER).all() or table.id.duplicated().any():
        raise ValueError(f"{file} must hold each id once, with one of {', '.join(ORDER)} as its split")
    return table.set_index("id").split


def looks(table: pd.DataFrame, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(a number for each row, equal where perceptual hashes are, -1 without one; pairs of such numbers that are close, [P, 2])."""
    if "phash" not in table:
        return np.full(len(table), -1), np.empty((0, 2), int)
    known = table.phash.notna().to_numpy()
    number, hashes = distinct(unpacked(table.phash[known]))
    look = np.full(len(table), -1)
    look[known] = number
    return look, close(hashes, bits)


def repeats(sound: np.ndarray, look: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Rows that look like an earlier row that stays: of those that look alike, the first sound one is kept."""
    near: dict[int, list[int]] = {}
    for a, b in links.tolist():
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    shared = np.isin(look, links) | pd.Series(look).duplicated(keep=False).to_numpy()  # all others are like no other
    repeat, kept = np.zeros(len(look), bool), set()
    for row in np.flatnonzero(shared & sound & (look >= 0)):
        mine = int(look[row])
        repeat[row] = mine in kept or any(other in kept for other in near.get(mine, ()))
        if not repeat[row]:
            kept.add(mine)
    return repeat


def group(table: pd.DataFrame, look: np.ndarray, links: np.ndarray, overlap: float | None = None) -> pd.Series:
    """The smallest id of all rows tied by like pictures or like prompts; null for a row the crawl dropped.

    Tied are all rows the crawl kept, whatever the filter thinks of them: a threshold moves no row to another split.
    """
    seen = np.flatnonzero(table.simple_prompt.notna())  # the captioner saw what the crawl kept, and nothing else
    told = seen[table.complex_prompt.notna().to_numpy()[seen]]
    words, near = nearly_equal(table.complex_prompt.iloc[told], overlap)
    ties = []
    for rows, number, pairs in ((np.arange(len(look)), look, links), (told, words, near)):
        rows, number = rows[number >= 0], number[number >= 0]
        first = pd.Series(rows).groupby(number).first().to_numpy(int)  # numbers are 0, 1, 2, …
        ties += [first[pairs], np.stack([first[number], rows], 1)]
    number = groups(len(table), np.concatenate(ties))[seen]
    ids = table.id.to_numpy(object)[seen]
    _, least = np.unique(number[order := np.argsort(ids, kind="stable")], return_index=True)  # the smallest id of each number
    return pd.Series(ids[order][least][np.unique(number, return_inverse=True)[1]], table.index[seen], dtype=table.id.dtype).reindex(
        table.index
    )


def count(table: pd.DataFrame) -> dict:
    """Rows in, kept, dropped by reason; the same by source; kept by split."""
    kept = table[table.dropped.isna()]
    counts = _count(table) | {
        "by_source": {source: _count(rows) for source, rows in table.groupby("source")},
        "by_split": {split: int((kept.split == split).sum()) for split in ("train", "validation", "test")},
    }
    assert counts["in"] == counts["kept"] + sum(counts["dropped"].values())
    return counts


def _count(rows: pd.DataFrame) -> dict:
    reasons = Counter(rows.dropped.dropna())
    return {"in": len(rows), "kept": int(rows.dropped.isna().sum()), "dropped": dict(sorted(reasons.items()))}
