"""What was asked for against what the judge sees: where numbers, colors and poses go wrong, and in which direction."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

ASKED, COUNTED = "asked", "counted"  # columns of the table of judgements: whole numbers; NaN where the prompt names no single number
ERROR = "error"
FINDINGS = (ERROR, "asked_color", "seen_color", "asked_pose", "seen_pose")  # columns of names; None: not judged, or not asked for
NO_ERROR = "none"  # of ERROR


def requested_count(prompt: dict) -> float:
    """Returns the number that a counting prompt asks for, if it asks for one class of things; else NaN."""
    include = prompt.get("include") or []
    single = len(include) == 1 and isinstance(include[0].get("count"), int) and prompt["category"] == "counting"
    return float(include[0]["count"]) if single else np.nan


def finding_columns(verdicts: np.ndarray | None, names: Mapping[str, tuple[str, ...]], number: int) -> dict[str, list[str | None]]:
    """Returns the columns FINDINGS of `number` images. verdicts (N, K): of the judge, whose FINDINGS are `names`; None: no judge."""
    columns: dict[str, list[str | None]] = {name: [None] * number for name in FINDINGS}
    for offset, (name, values) in enumerate(names.items() if verdicts is not None else ()):
        columns[name] = [None if np.isnan(code) else values[int(code)] for code in verdicts[:, 3 + offset]]
    return columns


def count_matrix(judgements: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Counts the images of an arm by requested number (rows) and counted number (columns, from 0; the last one and above together)."""
    rows = judgements[(judgements.arm == arm) & judgements[ASKED].notna() & judgements[COUNTED].notna()]
    requested = rows[ASKED].astype(int)
    last = int(judgements[ASKED].max()) + 1
    counted = rows[COUNTED].astype(int).clip(0, last)
    return pd.crosstab(requested, counted).reindex(columns=range(last + 1), fill_value=0)


def confusion_matrix(judgements: pd.DataFrame, arm: str, kind: str) -> pd.DataFrame:
    """Counts an arm's images by the asked (rows) and the seen (columns) `color` or `pose`: the asked names, then others that are seen."""
    asked, seen = judgements[f"asked_{kind}"], judgements[f"seen_{kind}"]
    names = sorted(set(asked.dropna()))
    others = sorted(set(seen.dropna()) - set(names))
    rows = (judgements.arm == arm) & asked.notna()
    return pd.crosstab(asked[rows], seen[rows]).reindex(index=names, columns=[*names, *others], fill_value=0)


def error_counts(judgements: pd.DataFrame) -> pd.DataFrame:
    """Counts the wrong images by kind of error (rows, the most frequent first) and arm (columns)."""
    wrong = judgements[judgements[ERROR].notna() & (judgements[ERROR] != NO_ERROR)]
    counts = pd.crosstab(wrong[ERROR], wrong.arm).reindex(columns=sorted(set(judgements.arm)), fill_value=0)
    return counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
