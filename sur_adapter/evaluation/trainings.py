"""Intervals over trainings and prompts together: what another training, measured on other prompts of the same kind, may give.

Each training is measured on the same prompts: x (T, N) has a row per training and a column per prompt, its seeds averaged. The variance of
the mean is that of the row means over T trainings plus that of the column means over N prompts, within categories; prompts of one template
are sampled together, so that the interval holds for other templates, too. Both contain the
interaction, so it counts twice: the intervals are slightly too wide (Owen 2007, "The pigeonhole bootstrap"). Degrees of freedom are
Satterthwaite's.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t

from sur_adapter.evaluation.prompt_sets import categories_of
from sur_adapter.evaluation.statistics import LEVEL, MORE_DISCORDANT, Interval, covariance_of_means, fieller
from sur_adapter.evaluation.summary import by_prompt, clusters_of
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.prompts import MAIN

DIFFERENCES = {  # name: (first arm, second arm), first − second
    "difference": ("adapter", "baseline"),
    "against_complex": ("adapter", "complex"),
    "on_complex": ("complex_adapter", "complex"),
    "against_rewrite": ("adapter", "rewrite"),
}


def mean_over_trainings(x: np.ndarray, strata: Sequence, clusters: np.ndarray | None = None) -> Interval:
    """Returns (value, low, high) of the mean of x (T, N), rates or differences of rates. strata, clusters (N,): category and template of
    each prompt."""
    variance, degrees = _variance(x[..., None], strata, clusters, np.ones(1))
    half = t.ppf((1 + LEVEL) / 2, degrees) * np.sqrt(variance[0, 0])
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def ratio_over_trainings(
    numerator: np.ndarray, denominator: np.ndarray, strata: Sequence, clusters: np.ndarray | None = None
) -> Interval | None:
    """Returns (value, low, high) of mean(numerator) / mean(denominator), (T, N) each, by Fieller's theorem; None as in `fieller`."""
    if denominator.mean() <= 0:
        return None
    pair = np.stack([numerator, denominator], -1)  # (T, N, 2)
    weights = np.array([1.0, -numerator.mean() / denominator.mean()])
    return fieller(numerator.mean(), denominator.mean(), *_variance(pair, strata, clusters, weights))


def _variance(x: np.ndarray, strata: Sequence, clusters: np.ndarray | None, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the covariance (K, K) of the means of x (T, N, K), and the degrees of freedom of the combination `weights` (K,) of them."""
    of_trainings, trainings = covariance_of_means(x.mean(1), ["all"] * len(x))
    of_prompts, prompts = covariance_of_means(x.mean(0), strata, clusters)
    of_prompts[0, 0] += MORE_DISCORDANT / x.shape[1] ** 2
    a, b = (float(weights @ part @ weights) for part in (of_trainings, of_prompts))
    degrees = (a + b) ** 2 / (a**2 / trainings + b**2 / prompts) if a + b > 0 else 1.0
    return of_trainings + of_prompts, degrees


def summarize_trainings(judgements: Sequence[pd.DataFrame]) -> dict[str, dict]:
    """Summarizes the judgements of several trainings on the same prompts and noise. judgements: judgements.parquet of each.

    Returns set -> {"prompts", "seeds", "templates" if prompts share them, "counts": category and "overall" -> prompts, "accuracy": arm ->
    category and "overall" -> interval, the names of DIFFERENCES -> interval, "gap_closed" and "ratio_to_rewrite" -> interval, if they have
    one}. Raises ValueError if the trainings have different prompts.
    """
    names = list(dict.fromkeys(judgements[0]["set"]))
    return {
        name: _summarize([table[table["set"] == name] for table in judgements], name) for name in sorted(names, key=lambda n: n != MAIN)
    }


def _summarize(tables: list[pd.DataFrame], name: str) -> dict:
    categories = _shared_categories(tables, name)
    rates = [by_prompt(table, "shown", categories) for table in tables]
    x = {arm: shown for arm in ARMS if (shown := _of_arm(arm, rates)) is not None}  # (T, N) each
    strata, clusters = categories.to_numpy(), clusters_of(tables[0], categories.index)
    groups = {category: strata == category for category in sorted(set(strata))} | {"overall": np.full(len(strata), True)}
    result: dict = {"prompts": len(strata), "seeds": int(tables[0].seed.nunique())}
    if clusters is not None:
        result["templates"] = len(set(clusters))
    result |= {"counts": {group: int(rows.sum()) for group, rows in groups.items()}, "accuracy": {}}
    for arm, values in x.items():
        shares = {
            group: mean_over_trainings(values[:, rows], strata[rows], None if clusters is None else clusters[rows])
            for group, rows in groups.items()
        }
        result["accuracy"][arm] = {group: _interval(np.clip(share, 0, 1)) for group, share in shares.items()}
    for key, (first, second) in DIFFERENCES.items():
        if first in x and second in x:
            result[key] = _interval(mean_over_trainings(x[first] - x[second], strata, clusters))
    ratios = {}
    if "complex" in x:
        ratios["gap_closed"] = ratio_over_trainings(x["adapter"] - x["baseline"], x["complex"] - x["baseline"], strata, clusters)
    if "rewrite" in x:
        ratios["ratio_to_rewrite"] = ratio_over_trainings(x["adapter"], x["rewrite"], strata, clusters)
    return result | {key: _interval(ratio) for key, ratio in ratios.items() if ratio is not None}


def compare_trainings(first: Sequence[pd.DataFrame], second: Sequence[pd.DataFrame]) -> dict[str, dict]:
    """Compares the adapters of two rows of trainings, first − second, with the same seeds in the same order, prompts and noise.

    Returns set -> {"prompts", "seeds", "difference": category and "overall" -> interval}. Raises ValueError if prompts differ.
    """
    result = {}
    for name in sorted(dict.fromkeys(first[0]["set"]), key=lambda n: n != MAIN):
        tables = [table[table["set"] == name] for table in (*first, *second)]
        categories = _shared_categories(tables, name)
        x = np.stack([by_prompt(table, "shown", categories)["adapter"].to_numpy() for table in tables])
        x, strata, clusters = x[: len(first)] - x[len(first) :], categories.to_numpy(), clusters_of(tables[0], categories.index)
        groups = {category: strata == category for category in sorted(set(strata))} | {"overall": np.full(len(strata), True)}
        intervals = {
            group: _interval(mean_over_trainings(x[:, rows], strata[rows], None if clusters is None else clusters[rows]))
            for group, rows in groups.items()
        }
        result[name] = {"prompts": len(strata), "seeds": int(tables[0].seed.nunique()), "difference": intervals}
    return result


def _shared_categories(tables: Sequence[pd.DataFrame], name: str) -> pd.Series:
    """Returns prompt id -> category. Raises ValueError if the trainings have different prompts."""
    categories = categories_of(tables[0])
    if any(not categories_of(table).sort_index().equals(categories.sort_index()) for table in tables):
        raise ValueError(f"the trainings were measured on different prompts of the set {name}: measure all of them again")
    return categories


def _of_arm(arm: str, rates: list[pd.DataFrame]) -> np.ndarray | None:
    """Returns the rates (T, N) of an arm. One without the adapter is the same for all trainings, so one of them suffices."""
    own = [table[arm] for table in rates if arm in table]
    if len(own) == len(rates):
        return np.stack(own)
    return np.stack([own[0]] * len(rates)) if own and not ARMS[arm].with_adapter else None


def _interval(values: Sequence[float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(("value", "low", "high"), values, strict=True)}
