"""From judged pictures to figures: a table with a row a picture in, nested numbers and reasons for what is left out, out.

The table: id, category, arm, seed, `shown` (0 or 1), `clip_score`, `distance` (to the prompt's other seeds), measures of
quality; a column that could not be measured is all NaN. Every arm holds the same prompts and seeds.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

import sur_adapter.statistics as st
from sur_adapter.quality import MEASURES

ARMS = ("baseline", "adapter", "complex", "expansion")
TOLERANCE = 0.05  # share of a measure of quality that may be lost
DIGITS = 4  # of the figures written
RESERVED = {"overall", "difference", "gap_closed", "prompts", "seeds", "pictures"}  # no names for a category
JUDGEMENTS = pa.schema(
    [
        ("id", pa.string()),  # of the prompt
        ("category", pa.string()),
        ("arm", pa.string()),
        ("seed", pa.int32()),
        ("text", pa.string()),  # the words that the pipeline was given
        ("shown", pa.float32()),  # 1: all that was asked for and nothing besides; null: no judge
        ("asked", pa.float32()),  # how many; null: the prompt asks for no single number
        ("counted", pa.float32()),  # how many of them the judge sees; null: not asked for, or no judge that counts
        ("clip_score", pa.float32()),  # with the plain prompt, in every arm; null: no CLIP
        ("distance", pa.float32()),  # to the other seeds' pictures of the prompt; null: no CLIP or one seed
        *((measure, pa.float32()) for measure in MEASURES),
    ]
)


def figures(table: pd.DataFrame, with_complex: set[str], resamples: int = 10_000, seed: int = 0) -> tuple[dict, dict]:
    """(metrics, notes). with_complex: ids of the prompts that have a keyword prompt, which alone have a gap to close."""
    prompts = table.drop_duplicates("id").set_index("id").category  # id -> category
    names = sorted(set(prompts))
    if taken := RESERVED & set(names):
        raise ValueError(f"the prompts have a category {min(taken)!r}, which is a key of its own in metrics.json: call it otherwise")
    frame = Frame(prompts, resamples, seed)
    metrics, notes = {}, {}
    family = {}
    if table.shown.notna().all():
        rates = by_prompt(table, "shown", prompts)
        metrics["semantic"], notes["semantic"] = _semantic(rates, frame, with_complex)
        family |= {("semantic", name): metrics["semantic"]["difference"][name] for name in names}
    if table.clip_score.notna().all():
        scores = by_prompt(table, "clip_score", prompts)
        metrics["clip_score"] = dict(scores.mean()) | {"difference": frame.difference(scores)}
        family["clip_score"] = metrics["clip_score"]["difference"]
    for key, p in st.holm({k: d["p"] for k, d in family.items()}).items():
        family[key]["p_holm"] = p
    if table.distance.notna().all():
        metrics["diversity"] = dict(by_prompt(table, "distance", prompts).mean())
    metrics["quality"] = _quality({m: by_prompt(table, m, prompts) for m in MEASURES}, frame)
    metrics["counts"] = {"prompts": len(prompts), "seeds": table.seed.nunique(), "pictures": len(table)}
    metrics["counts"] |= {name: int((prompts == name).sum()) for name in names}
    return _plain(metrics), dict(_flat(notes))


def by_prompt(table: pd.DataFrame, column: str, prompts: pd.Series) -> pd.DataFrame:
    """Prompts × arms: the mean over a prompt's seeds."""
    means = table.groupby(["id", "arm"])[column].mean().unstack("arm").loc[prompts.index]
    return means[[arm for arm in ARMS if arm in means]].astype(float)


class Frame:
    """Which prompts there are, and the draws that every interval shares."""

    def __init__(self, prompts: pd.Series, resamples: int, seed: int):
        self.categories, self.resamples, self.seed = prompts.to_numpy(), resamples, seed

    def draws(self, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(weights, strata) of the rows chosen."""
        strata = self.categories if rows is None else self.categories[rows]
        return st.draws(strata, self.resamples, self.seed), strata

    def difference(self, arms: pd.DataFrame, rows: np.ndarray | None = None) -> dict:
        """adapter − baseline on the rows chosen: interval, p, wins, and what could have been seen."""
        chosen = arms if rows is None else arms[rows]
        x = (chosen["adapter"] - chosen["baseline"]).to_numpy()
        value, low, high = st.mean(x, *self.draws(rows))
        win, tie, loss = st.win_tie_loss(x)
        p, smallest = st.sign_flip(x, self.resamples, self.seed), st.smallest_detectable(x)
        return {"value": value, "low": low, "high": high, "p": p, "smallest_detectable": smallest, "win": win, "tie": tie, "loss": loss}


def _semantic(rates: pd.DataFrame, frame: Frame, with_complex: set[str]) -> tuple[dict, dict]:
    everything = np.full(len(rates), True)
    parts = {name: frame.categories == name for name in sorted(set(frame.categories))} | {"overall": everything}
    semantic = {name: {arm: _rate(rates[arm][rows]) for arm in rates} for name, rows in parts.items()}
    semantic["difference"] = frame.difference(rates) | {n: frame.difference(rates, rows) for n, rows in parts.items() if n != "overall"}
    semantic["gap_closed"], notes = {}, {}
    paired = rates.index.isin(with_complex)
    for name, rows in parts.items():
        found, reason = _gap(rates, frame, rows & paired)
        into = semantic["gap_closed"]
        if found:
            into.update(found if name == "overall" else {name: found})
        else:
            notes["gap_closed" if name == "overall" else f"gap_closed.{name}"] = reason
    return semantic, notes


def _rate(x: pd.Series) -> dict:
    low, high = st.wilson(x.mean(), len(x))
    return {"value": x.mean(), "low": low, "high": high}


def _gap(rates: pd.DataFrame, frame: Frame, rows: np.ndarray) -> tuple[dict | None, str]:
    if "complex" not in rates or not rows.any():
        return None, "no prompt with a keyword prompt was drawn in the arm `complex`"
    chosen = rates[rows]
    found = st.gap_closed(chosen["baseline"], chosen["adapter"], chosen["complex"], *frame.draws(rows))
    if found is None:
        gap = (chosen["complex"] - chosen["baseline"]).mean()
        why = f"complex − baseline is {gap:+.3f} over {len(chosen)} prompts, and its interval is not clear above 0"
        return None, f"{why}: there is no gap to close"
    return dict(zip(("value", "low", "high"), found, strict=True)), ""


def _quality(measures: dict[str, pd.DataFrame], frame: Frame) -> dict:
    """Means of each arm, and `regressed`: whether the adapter loses more than TOLERANCE of a measure, beyond doubt.

    A loss is counted from the lower of baseline and complex: to go down to where keyword prompts are is no loss.
    """
    regressed = {}
    for name, arms in measures.items():
        floor = [arm for arm in ("baseline", "complex") if arm in arms]
        values = np.column_stack([arms["adapter"], arms[floor]])  # (N, 2 or 3)
        above = st.interval(lambda m: m[..., 0] - (1 - TOLERANCE) * m[..., 1:].min(-1), values, *frame.draws())
        regressed[name] = int(above[2] < 0)
    result = {name: dict(arms.mean()) | {"regressed": regressed[name]} for name, arms in measures.items()}
    return result | {"regressed": max(regressed.values())}


def _plain(tree: dict) -> dict:
    """Keys sorted, numpy's numbers as Python's, rounded; what is no number is left out: NaN turns up in every `dvc metrics diff`."""
    result = {}
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, dict):
            result[key] = _plain(value)
        elif np.isfinite(value):
            result[key] = int(value) if isinstance(value, (int, np.integer)) else round(float(value), DIGITS) + 0.0  # no −0.0
    return result


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
