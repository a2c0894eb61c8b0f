"""Selects the images that a report shows."""

from random import Random

import pandas as pd

HEADINGS = {
    "random": ("Drawn by lot", "Chosen by a fixed seed, not by us."),
    "best": ("Where the adapter helps most", "Right with it, wrong without; then by CLIP score."),
    "worst": ("Where it fails", "The worst of each category: right without it and wrong with it; then by CLIP score."),
}


def choose(table: pd.DataFrame, seed: int = 0, each: int = 2) -> dict[str, list[tuple[str, int]]]:
    """heading -> (prompt id, seed) of the rows to show, `each` a category."""
    wide = table.set_index(["category", "id", "seed", "arm"])[["shown", "clip_score"]].unstack("arm")
    gain = pd.DataFrame({"shown": 0.0, "clip_score": 0.0}, index=wide.index)
    for column in ("shown", "clip_score"):
        if table[column].notna().any():
            gain[column] = wide[column]["adapter"] - wide[column]["baseline"]
            gain[f"{column}_adapter"] = wide[column]["adapter"]
    order = [c for c in ("shown", "shown_adapter", "clip_score") if c in gain]
    rows = {heading: [] for heading in HEADINGS}
    for name in sorted(gain.index.unique("category")):
        part = gain.loc[name].sort_values([*order, "id", "seed"], kind="stable")
        keys = [(str(i), int(k)) for i, k in part.index]
        rows["worst"] += one_a_prompt(keys)[:each]
        rows["best"] += one_a_prompt(keys[::-1])[:each]
        rows["random"] += by_lot(keys, f"{seed} {name}")[:each]
    return rows


def by_lot(keys: list[tuple[str, int]], seed: str) -> list[tuple[str, int]]:
    """One (prompt id, seed) a prompt, in an order that the seed alone decides: a longer list begins with the shorter one."""
    keys = sorted(keys)
    Random(seed).shuffle(keys)
    return one_a_prompt(keys)


def one_a_prompt(keys: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The first of each prompt."""
    first: dict[str, int] = {}
    for name, k in keys:
        first.setdefault(name, k)
    return list(first.items())
