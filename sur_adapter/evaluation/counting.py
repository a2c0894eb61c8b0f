"""How many were asked for, against how many a judge counts: where counting goes wrong, and which way."""

import numpy as np
import pandas as pd

ASKED, COUNTED = "asked", "counted"  # columns of judged pictures: whole numbers; NaN where the prompt asks for no single number


def asked_for(prompt: dict) -> float:
    """The number a prompt asks for, where it asks for one kind of thing and names its number; else NaN."""
    include = prompt.get("include") or []
    single = len(include) == 1 and isinstance(include[0].get("count"), int) and prompt["category"] == "counting"
    return float(include[0]["count"]) if single else np.nan


def confusion(judged: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Pictures by number asked for (rows) and counted (columns, from 0; the last holds all beyond what is ever asked for)."""
    rows = judged[(judged.arm == arm) & judged[ASKED].notna() & judged[COUNTED].notna()]
    asked = rows[ASKED].astype(int)
    most = int(judged[ASKED].max()) + 1
    counted = rows[COUNTED].astype(int).clip(0, most)
    return pd.crosstab(asked, counted).reindex(columns=range(most + 1), fill_value=0)
