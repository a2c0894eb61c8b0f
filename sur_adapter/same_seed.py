"""Which pictures a report shows: the same prompt, seed and noise in every arm; drawn by lot, the best and the worst."""

from html import escape
from random import Random

import pandas as pd

from sur_adapter.page import picture, said

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


def arm_label(arm: str) -> str:
    return f'<span class="dot arm-{arm}"></span>{arm.replace("_", " + ")}'


def articles(keys: list[tuple[str, int]], judged: pd.DataFrame, asked: dict, arms: list[str], pictures: dict) -> str:
    """A row of pictures for each key. judged: the table by (arm, id, seed); pictures: (arm, id, seed) -> bytes."""
    return "".join(_article(name, k, judged, asked[name], arms, pictures) for name, k in keys)


def _article(name: str, k: int, judged: pd.DataFrame, prompt: dict, arms: list[str], pictures: dict) -> str:
    figures, texts = [], []
    for arm in arms:
        row = judged.loc[(arm, name, k)]
        right = {1.0: "shows it", 0.0: "does not show it"}.get(row.shown, "")
        mark = f'<span class="{"good" if row.shown else "bad"}">{"✓" if row.shown else "✗"} {right}</span>' if right else ""
        alt = f"{arm}, seed {k}" + (f": {right}" if right else "")
        figures.append(f"<figure>{picture(pictures[arm, name, k], alt)}<figcaption>{arm_label(arm)}<br>{mark}</figcaption></figure>")
        texts.append(f"<dt>{arm}</dt><dd>{said(row.text)}</dd>")
    words = f"<details><summary>the words given</summary><dl>{''.join(texts)}</dl></details>"
    about = f'<small class="soft">{said(prompt["category"])}, {escape(name)}, seed {k}</small>'
    return f'<article><h3>{said(prompt["prompt"])}</h3>{about}<div class="row">{"".join(figures)}</div>{words}</article>'
