"""Which pictures a report shows: the same prompt, seed and noise in every arm; drawn by lot, the best and the worst."""

from html import escape

import pandas as pd

from sur_adapter.reporting.html import picture, said


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
