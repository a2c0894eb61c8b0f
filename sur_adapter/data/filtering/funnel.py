"""Counts the rows that each reason drops."""

from collections import Counter

import pandas as pd


def count_rows(table: pd.DataFrame) -> dict:
    """Counts rows in, kept and dropped by reason, in all and by source; kept rows by split. table: source, dropped, split."""
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


def funnel_csv(counts: dict) -> str:
    """Writes the counts as a CSV table of step and rows: rows in, each reason, most rows first, and rows kept."""
    dropped = dict(sorted(counts["dropped"].items(), key=lambda item: -item[1]))
    steps = {"in": counts["in"]} | dropped | {"kept": counts["kept"]}
    return pd.Series(steps, name="rows").rename_axis("step").to_csv(lineterminator="\n")
