"""Requested against counted numbers of things: where counting goes wrong, and in which direction."""

import numpy as np
import pandas as pd

ASKED, COUNTED = "asked", "counted"  # columns of the table of judgements: whole numbers; NaN where the prompt names no single number


def requested_count(prompt: dict) -> float:
    """Returns the number that a counting prompt asks for, if it asks for one class of things; else NaN."""
    include = prompt.get("include") or []
    single = len(include) == 1 and isinstance(include[0].get("count"), int) and prompt["category"] == "counting"
    return float(include[0]["count"]) if single else np.nan


def count_matrix(judgements: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Counts the images of an arm by requested number (rows) and counted number (columns, from 0; the last one and above together)."""
    rows = judgements[(judgements.arm == arm) & judgements[ASKED].notna() & judgements[COUNTED].notna()]
    requested = rows[ASKED].astype(int)
    last = int(judgements[ASKED].max()) + 1
    counted = rows[COUNTED].astype(int).clip(0, last)
    return pd.crosstab(requested, counted).reindex(columns=range(last + 1), fill_value=0)
