"""From judged pictures to figures: a table with a row a picture in, nested numbers and reasons for what is left out, out.

The table: id, category, arm, seed, `shown` (0 or 1), `soft` (how likely the judge holds it to be shown), `clip_score`, `distance` (to the
prompt's other seeds), measures of quality, the higher the better; a column that could not be measured is all NaN. Every arm holds the same
prompts and seeds.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

import sur_adapter.evaluation.statistics as st
from sur_adapter.evaluation.image_quality import MEASURES
from sur_adapter.generation.arms import ARMS

DIGITS = 4  # of the figures written
BESIDE = {"overall", "difference", "gap_closed", "on_complex"}  # the categories in `semantic`
RESERVED = BESIDE | set(ARMS) | {"prompts", "seeds", "pictures"}  # no names for a category
JUDGEMENTS = pa.schema(
    [
        ("id", pa.string()),  # of the prompt
        ("category", pa.string()),
        ("arm", pa.string()),
        ("seed", pa.int32()),
        ("text", pa.string()),  # the words that the pipeline was given
        ("shown", pa.float32()),  # 1: all that was asked for and nothing besides; null: no judge
        ("soft", pa.float32()),  # 0 … 1; null: the judge knows right and wrong alone
        ("asked", pa.float32()),  # how many; null: the prompt asks for no single number
        ("counted", pa.float32()),  # how many of them the judge sees; null: not asked for, or no judge that counts
        ("clip_score", pa.float32()),  # with the plain prompt, in every arm; null: no CLIP
        ("distance", pa.float32()),  # to the other seeds' pictures of the prompt; null: no CLIP or one seed
        *((measure, pa.float32()) for measure in MEASURES),
    ]
)


def figures(
    table: pd.DataFrame,
    with_complex: set[str],
    resamples: int = 10_000,
    seed: int = 0,
    tolerance: float = 0.05,
    measures: Sequence[str] = (),
) -> tuple[dict, dict]:
    """(metrics, notes). with_complex: ids of the prompts that have a keyword prompt, which alone have a gap to close.

    tolerance: share of a measure of quality that may be lost. measures: columns of the table beside those of quality.py.
    """
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
    if table.soft.notna().all():
        soft = by_prompt(table, "soft", prompts)
        metrics["soft"] = dict(soft.mean()) | {name: dict(soft[prompts == name].mean()) for name in names}
        metrics["soft"]["difference"] = frame.difference(soft)
    if table.clip_score.notna().all():
        scores = by_prompt(table, "clip_score", prompts)
        metrics["clip_score"] = dict(scores.mean()) | {"difference": frame.difference(scores)}
        family["clip_score"] = metrics["clip_score"]["difference"]
    for key, p in st.holm({k: d["p"] for k, d in family.items()}).items():
        family[key]["p_holm"] = p
    if table.distance.notna().all():
        metrics["diversity"] = dict(by_prompt(table, "distance", prompts).mean())
    metrics["quality"] = _quality({m: by_prompt(table, m, prompts) for m in (*MEASURES, *measures)}, frame, tolerance)
    for name in measures:
        metrics["quality"][name]["win_rate"] = _win_rate(table, name, prompts, frame)
    if said := _agreement(table, ("clip_score", *MEASURES, *measures)):
        metrics["agreement"] = said
    metrics["counts"] = {"prompts": len(prompts), "seeds": table.seed.nunique(), "pictures": len(table)}
    metrics["counts"] |= {name: int((prompts == name).sum()) for name in names}
    return plain(metrics), dict(_flat(notes))


def categories(semantic: dict) -> list[str]:
    """Those that metrics.json's `semantic` tells of."""
    return [name for name in semantic if name not in BESIDE]


def by_prompt(table: pd.DataFrame, column: str, prompts: pd.Series) -> pd.DataFrame:
    """Prompts × arms: the mean over a prompt's seeds."""
    means = table.groupby(["id", "arm"])[column].mean().unstack("arm").loc[prompts.index]
    return means[[arm for arm in ARMS if arm in means]].astype(float)


class Frame:
    """Which prompts there are, and the draws that every interval shares."""

    def __init__(self, prompts: pd.Series, resamples: int, seed: int):
        self.categories, self.resamples, self.seed = prompts.to_numpy(), resamples, seed
        self.every = st.draws(self.categories, resamples, seed), self.categories

    def draws(self, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(weights, strata) of the rows chosen."""
        return self.every if rows is None else (st.draws(self.categories[rows], self.resamples, self.seed), self.categories[rows])

    def difference(self, arms: pd.DataFrame, rows: np.ndarray | None = None, of: tuple[str, str] = ("adapter", "baseline")) -> dict:
        """The first arm − the second on the rows chosen: interval, p, wins, and what could have been seen."""
        chosen = arms if rows is None else arms[rows]
        x = (chosen[of[0]] - chosen[of[1]]).to_numpy()
        value, low, high = st.mean(x, *self.draws(rows))
        win, tie, loss = st.win_tie_loss(x)
        p, smallest = st.sign_flip(x, self.resamples, self.seed), st.smallest_detectable(x)
        return {"value": value, "low": low, "high": high, "p": p, "smallest_detectable": smallest, "win": win, "tie": tie, "loss": loss}


def _semantic(rates: pd.DataFrame, frame: Frame, with_complex: set[str]) -> tuple[dict, dict]:
    everything = np.full(len(rates), True)
    parts = {name: frame.categories == name for name in sorted(set(frame.categories))} | {"overall": everything}
    semantic = {name: {arm: rate(rates[arm][rows]) for arm in rates} for name, rows in parts.items()}
    semantic["difference"] = frame.difference(rates) | {n: frame.difference(rates, rows) for n, rows in parts.items() if n != "overall"}
    semantic["gap_closed"], notes = {}, {}
    paired = rates.index.isin(with_complex)
    if {"complex", "complex_adapter"} <= set(rates) and paired.any():
        semantic["on_complex"] = frame.difference(rates, paired, of=("complex_adapter", "complex"))
    for name, rows in parts.items():
        found, reason = _gap(rates, frame, rows & paired)
        into = semantic["gap_closed"]
        if found:
            into.update(found if name == "overall" else {name: found})
        else:
            notes["gap_closed" if name == "overall" else f"gap_closed.{name}"] = reason
    return semantic, notes


def rate(x: pd.Series) -> dict:
    """The mean of shares, one a prompt, and its interval (Wilson's)."""
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


def _quality(measures: dict[str, pd.DataFrame], frame: Frame, tolerance: float) -> dict:
    """Means of each arm, adapter − baseline, and `regressed`: whether its interval lies below a loss of tolerance · |baseline|."""
    result = {}
    for name, arms in measures.items():
        pair = arms[["adapter", "baseline"]].to_numpy()  # (N, 2)
        value, low, high = st.mean(pair[:, 0] - pair[:, 1], *frame.draws())
        _, _, beyond = st.interval(lambda m: m[..., 0] - m[..., 1] + tolerance * abs(m[..., 1]), pair, *frame.draws())
        difference = {"value": value, "low": low, "high": high}
        result[name] = dict(arms.mean()) | {"difference": difference, "regressed": int(beyond < 0)}
    return result | {"regressed": max(measure["regressed"] for measure in result.values())}


def _win_rate(table: pd.DataFrame, column: str, prompts: pd.Series, frame: Frame) -> dict:
    """How often the adapter's picture is better than the baseline's of the same prompt and seed; a draw is half a win."""
    wide = table.set_index(["id", "seed", "arm"])[column].unstack("arm")
    wins = (wide["adapter"] > wide["baseline"]) + 0.5 * (wide["adapter"] == wide["baseline"])
    value, low, high = st.mean(wins.groupby("id").mean().loc[prompts.index].to_numpy(), *frame.draws())
    return {"value": value, "low": low, "high": high}


def _agreement(table: pd.DataFrame, columns: Sequence[str]) -> dict:
    """Spearman's ρ of each measure with what the judge says, over all pictures: how far the measure tells right from wrong."""
    said = table.soft if table.soft.notna().all() else table.shown
    return {name: st.spearman(table[name], said) for name in columns if said.notna().all() and table[name].notna().all()}


def plain(tree: dict) -> dict:
    """Keys sorted, numpy's numbers as Python's, rounded; what is no number is left out: NaN turns up in every `dvc metrics diff`."""
    result = {}
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, dict):
            result[key] = plain(value)
        elif np.isfinite(value):
            result[key] = int(value) if isinstance(value, (int, np.integer)) else round(float(value), DIGITS) + 0.0  # no −0.0
    return result


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
