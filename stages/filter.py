"""filter: the pairs worth learning from. Everything was measured before; here it is only decided, one reason for each row."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from sur_adapter.near import close, groups
from sur_adapter.records import group_split, read_table, write_table
from sur_adapter.schema import nearest, settings


def filter(raw: Path, captions: Path, scored: Path, pairs: Path, funnel: Path, *, filter: dict, sources: dict, scores: dict) -> None:
    tables = tables_of(scored, scores)
    rules = rules_of(filter, tables)
    least = {name: filter[name] for name in tables if name in filter}
    table = decide(join(raw, captions, tables, list(sources)), least, **rules)
    columns = ["id", "source", "simple_prompt", "complex_prompt", *tables, "dropped", "group", "split"]
    write_table(pairs, table.sort_values("id", kind="stable")[columns])
    counts = count(table)
    funnel.parent.mkdir(parents=True, exist_ok=True)
    funnel.write_text(json.dumps(counts, indent=2) + "\n")
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
            raise ValueError(f"params.yaml: filter.{key} is neither a rule nor a score{nearest(key, known)}; known are {', '.join(known)}")
    return settings(decide, {name: value for name, value in filter.items() if name not in scores}, "filter")


def join(raw: Path, captions: Path, scores: dict[str, Path], sources: list[str]) -> pd.DataFrame:
    """Every row of every source as crawled; sentence and scores beside those the crawl kept, null beside the others."""
    table = _all(raw, sources)
    kept = table.dropped.isna()
    table.loc[kept & table.id.where(kept).duplicated(), "dropped"] = "duplicate"  # two sources may hold one picture
    sides = [_all(captions, sources)]
    sides += [_all(folder, [f"{s}.parquet" for s in sources]).rename(columns={"value": name}) for name, folder in scores.items()]
    measured = table[["id"]].where(table.dropped.isna())  # a duplicate has its original's id, and no share in its scores
    for side in sides:
        table[side.columns[1]] = measured.merge(side.drop_duplicates("id"), "left", "id")[side.columns[1]]
    return table


def _all(folder: Path, names: list[str]) -> pd.DataFrame:
    return pd.concat([read_table(folder / name) for name in names], ignore_index=True)


def decide(
    table: pd.DataFrame,
    least: dict[str, float],
    *,
    min_side: int = 0,
    nsfw: tuple[str, ...] = ("None",),
    duplicate_bits: int = 0,
    validation: float = 0.05,
    test: float = 0.05,
) -> pd.DataFrame:
    """The table with `dropped`, `group` and `split`. The first reason counts, in the order of these lines.

    least: the least value of a score. nsfw: levels let through; a source that has no levels (null) is let through too.
    """
    table = table.copy()

    def drop(reason: str, where: pd.Series) -> None:
        table.loc[table.dropped.isna() & where, "dropped"] = reason

    links = close_pictures(table, duplicate_bits)
    drop("no_prompt", table.complex_prompt.isna())
    drop("nsfw", table.nsfw.notna() & ~table.nsfw.isin([nsfw] if isinstance(nsfw, str) else nsfw))
    drop("too_small", table[["width", "height"]].min(axis=1) < min_side)
    drop("no_caption", table.simple_prompt.fillna("").str.strip() == "")
    drop("near_duplicate", repeats(table, links))
    for score, value in least.items():
        drop(score, ~(pd.to_numeric(table[score]) >= value))  # null is no agreement
    table["group"] = group(table, links)
    table["split"] = table.group.dropna().map(lambda g: group_split(g, test, validation))
    return table


def close_pictures(table: pd.DataFrame, bits: int) -> list[tuple[int, int]]:
    """Rows (i, j), i < j, whose pictures look alike; none without the score phash."""
    if "phash" not in table:
        return []
    rows = table.index[table.phash.notna()]
    return [(rows[i], rows[j]) for i, j in close(list(table.phash[rows]), bits)]


def repeats(table: pd.DataFrame, links: list[tuple[int, int]]) -> pd.Series:
    """Rows that look like an earlier row that stays: of those that look alike, the first is kept."""
    repeat = table.dropped.notna()
    for i, j in sorted(links, key=lambda link: link[::-1]):
        if not repeat[i]:
            repeat[j] = True
    return repeat


def group(table: pd.DataFrame, links: list[tuple[int, int]]) -> pd.Series:
    """The smallest id of all rows tied by like pictures or equal prompts; null for a row the crawl dropped.

    Tied are all rows the crawl kept, whatever the filter thinks of them: a threshold moves no row to another split.
    """
    rows = table.index[table.simple_prompt.notna()]  # the captioner saw what the crawl kept, and nothing else
    links = [*links, *_equal_prompts(table.complex_prompt[rows])]
    number = pd.Series(groups(len(table), links), table.index)[rows]
    return table.id[rows].groupby(number).transform("min")


def _equal_prompts(prompts: pd.Series) -> list[tuple[int, int]]:
    first, links = {}, []
    for row, prompt in prompts.dropna().items():
        words = " ".join(re.findall(r"\w+", prompt.lower()))
        if words:
            links.append((first.setdefault(words, row), row))
    return links


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
