"""Turns judged images into metrics: a table with a row per image in; nested numbers, and reasons for what is left out, out.

Columns of the table: id, category, arm, seed, `shown` (0 or 1), `soft` (the judge's probability), `clip_score`, `distance` (to the other
seeds' images of the prompt), image metrics (higher is better); a column that was not measured is all NaN. Every arm has the same prompts
and seeds.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from sur_adapter.evaluation.confusion import FINDINGS
from sur_adapter.evaluation.image_quality import IMAGE_STATISTICS
from sur_adapter.evaluation.statistics import (
    Bootstrap,
    effective_prompts,
    holm,
    sign_flip,
    smallest_detectable,
    spearman,
    wilson,
    win_tie_loss,
)
from sur_adapter.generation.arms import ARMS

DIGITS = 4  # of the numbers in metrics.json
NOT_WORSE = {  # key of metrics.json: semantic -> the arms of which the first must not be worse than the second by more than `margin`
    "against_complex": ("adapter", "complex"),
    "on_complex": ("complex_adapter", "complex"),
}
NOT_CATEGORIES = {"overall", "difference", "gap_closed", *NOT_WORSE}  # other keys of metrics.json: semantic
RESERVED = NOT_CATEGORIES | set(ARMS) | {"prompts", "seeds", "pictures"}  # a category cannot have these names
JUDGEMENTS = pa.schema(
    [
        ("set", pa.string()),  # of prompts: `main`, or the name of a sub-folder, whose images are only judged
        ("id", pa.string()),  # of the prompt
        ("category", pa.string()),
        ("template", pa.string()),  # that prompts share, for intervals; null: the prompt has none
        ("arm", pa.string()),
        ("seed", pa.int32()),
        ("text", pa.string()),  # the prompt that the pipeline got
        ("shown", pa.float32()),  # 1: all that was asked for and nothing else; null: no judge
        ("soft", pa.float32()),  # probability, 0 to 1; null: the judge gives none
        ("asked", pa.float32()),  # requested number; null: the prompt names no single number
        ("counted", pa.float32()),  # number that the judge counts; null: none requested, or the judge does not count
        *((name, pa.string()) for name in FINDINGS),  # names: the kind of error, colors and poses; null: the judge does not say
        ("clip_score", pa.float32()),  # with the plain prompt, in every arm; null: no CLIP
        ("distance", pa.float32()),  # to the images of the prompt's other seeds; null: no CLIP or one seed
        *((name, pa.float32()) for name in IMAGE_STATISTICS),
    ]
)


def summarize(
    judgements: pd.DataFrame,
    with_complex: set[str],
    bootstrap_resamples: int = 10_000,
    seed: int = 0,
    tolerance: float = 0.05,
    metrics: Sequence[str] = (),
    margin: float = 0.03,
) -> tuple[dict, dict]:
    """Summarizes the judgements. Returns (metrics, notes).

    with_complex: ids of the prompts that have a keyword prompt; only these have a gap to close.

    tolerance: share of a quality metric that may be lost. metrics: image metrics of the table other than IMAGE_STATISTICS. margin: of
    NOT_WORSE. Raises ValueError if a category has the name of a key of metrics.json.
    """
    categories = judgements.drop_duplicates("id").set_index("id").category  # prompt id -> category
    names = sorted(set(categories))
    check_names(names)
    bootstrap = Bootstrap(categories.to_numpy(), bootstrap_resamples, seed, clusters_of(judgements, categories.index))
    quality = (*IMAGE_STATISTICS, *metrics)
    result, notes, family = {}, {}, {}
    if judgements.shown.notna().all():
        rates = by_prompt(judgements, "shown", categories)
        result["semantic"], notes["semantic"] = summarize_accuracy(rates, bootstrap, with_complex, margin)
        family |= {("semantic", name): result["semantic"]["difference"][name] for name in names}
    if judgements.soft.notna().all():
        soft = by_prompt(judgements, "soft", categories)
        result["soft"] = dict(soft.mean()) | {name: dict(soft[categories == name].mean()) for name in names}
        result["soft"]["difference"] = difference(soft, bootstrap)
    if judgements.clip_score.notna().all():
        scores = by_prompt(judgements, "clip_score", categories)
        result["clip_score"] = dict(scores.mean()) | {"difference": difference(scores, bootstrap, are_rates=False)}
        family["clip_score"] = result["clip_score"]["difference"]
    for key, p in holm({key: test["p"] for key, test in family.items()}).items():
        family[key]["p_holm"] = p
    if judgements.distance.notna().all():
        result["diversity"] = dict(by_prompt(judgements, "distance", categories).mean())
    result["quality"] = _quality({name: by_prompt(judgements, name, categories) for name in quality}, bootstrap, tolerance)
    for name in metrics:
        result["quality"][name]["win_rate"] = _win_rate(judgements, name, categories, bootstrap)
    if agreement := _agreement(judgements, ("clip_score", *quality)):
        result["agreement"] = agreement
    result["counts"] = {"prompts": len(categories), "seeds": judgements.seed.nunique(), "pictures": len(judgements)}
    result["counts"] |= {name: int((categories == name).sum()) for name in names}
    return round_floats(result), dict(_flatten(notes))


def check_names(categories: Iterable[str]) -> None:
    """Raises ValueError if a category has the name of a key of metrics.json."""
    if taken := RESERVED & set(categories):
        raise ValueError(f"the prompts have a category {min(taken)!r}, which is a key of its own in metrics.json: rename the category")


def category_names(semantic: dict) -> list[str]:
    """Returns the categories among the keys of metrics.json: semantic."""
    return [name for name in semantic if name not in NOT_CATEGORIES]


def clusters_of(judgements: pd.DataFrame, ids: pd.Index) -> np.ndarray | None:
    """Returns the template of each prompt of `ids`, or its id if it has none, (N,); None if no two prompts share one."""
    if "template" not in judgements:
        return None
    templates = judgements.drop_duplicates("id").set_index("id").template.loc[ids]
    clusters = templates.where(templates.notna(), pd.Series(ids, ids))
    return None if clusters.is_unique else clusters.to_numpy()


def accuracy_by_template(judgements: pd.DataFrame) -> pd.DataFrame:
    """Returns set, category, template, prompts and the accuracy of each arm: a row per template, the set with most templates first.

    judgements: of all sets. Empty if no prompt has a template, or without a judge.
    """
    keys = ["set", "category", "template"]
    if "template" not in judgements:
        return pd.DataFrame(columns=[*keys, "prompts"])
    judged = judgements[judgements.template.notna() & judgements.shown.notna()]
    table = judged.groupby([*keys, "arm"], sort=True).shown.mean().unstack("arm")
    table = table[[arm for arm in ARMS if arm in table]]
    table.insert(0, "prompts", judged.groupby(keys).id.nunique())
    return table.reset_index()


def by_prompt(judgements: pd.DataFrame, column: str, categories: pd.Series) -> pd.DataFrame:
    """Averages over the seeds of each prompt: a row per prompt, a column per arm."""
    means = judgements.groupby(["id", "arm"])[column].mean().unstack("arm").loc[categories.index]
    return means[[arm for arm in ARMS if arm in means]].astype(float)


def difference(
    arms: pd.DataFrame,
    bootstrap: Bootstrap,
    rows: np.ndarray | None = None,
    pair: tuple[str, str] = ("adapter", "baseline"),
    are_rates: bool = True,
) -> dict:
    """Compares the arms of `pair`, first − second, on the prompts of the mask `rows`. are_rates: the values are from 0 to 1.

    Returns the interval, the p-value, wins, ties and losses, and the smallest detectable difference.
    """
    if rows is not None:
        arms, bootstrap = arms[rows], bootstrap.subset(rows)
    x = (arms[pair[0]] - arms[pair[1]]).to_numpy()
    value, low, high = bootstrap.rate_difference(x) if are_rates else bootstrap.mean(x)
    win, tie, loss = win_tie_loss(x)
    p = sign_flip(np.bincount(bootstrap.units(), x), bootstrap.resamples, bootstrap.seed)
    interval = {"value": value, "low": low, "high": high, "p": p, "smallest_detectable": smallest_detectable(x, bootstrap.clusters)}
    return interval | {"win": win, "tie": tie, "loss": loss}


def summarize_accuracy(rates: pd.DataFrame, bootstrap: Bootstrap, with_complex: set[str], margin: float | None = None) -> tuple[dict, dict]:
    """Summarizes accuracy by category and overall. Returns (metrics: semantic of metrics.json, notes).

    rates: a row per prompt, a column per arm, in the order of bootstrap.strata; with_complex: ids of prompts with a keyword prompt.
    margin: adds the comparisons of NOT_WORSE, whose `not_worse` is 1 if the whole interval is above −margin. An interval that reaches below
    shows neither that it is worse nor that it is not.
    """
    categories = np.asarray(bootstrap.strata)
    masks = {name: categories == name for name in sorted(set(categories))}
    groups = masks | {"overall": np.full(len(rates), True)}
    clusters = None if bootstrap.clusters is None else np.asarray(bootstrap.clusters)
    of_group = {name: None if clusters is None else clusters[rows] for name, rows in groups.items()}
    semantic = {name: {arm: rate(rates[arm][rows], of_group[name]) for arm in rates} for name, rows in groups.items()}
    semantic["difference"] = difference(rates, bootstrap) | {name: difference(rates, bootstrap, rows) for name, rows in masks.items()}
    semantic["gap_closed"], notes = {}, {}
    paired = rates.index.isin(with_complex)
    for name, pair in NOT_WORSE.items():
        if margin is not None and set(pair) <= set(rates) and paired.any():
            semantic[name] = difference(rates, bootstrap, paired, pair)
            semantic[name] |= {"margin": margin, "not_worse": int(semantic[name]["low"] > -margin)}
    for name, rows in groups.items():
        gap, reason = _gap_closed(rates, bootstrap, rows & paired)
        if gap is None:
            notes["gap_closed" if name == "overall" else f"gap_closed.{name}"] = reason
        else:
            semantic["gap_closed"].update(gap if name == "overall" else {name: gap})
    return semantic, notes


def rate(x: pd.Series, clusters: np.ndarray | None = None) -> dict:
    """Returns the mean of rates, one per prompt, with Wilson's interval. clusters (N,): templates of the prompts; they count as fewer."""
    low, high = wilson(x.mean(), effective_prompts(x.to_numpy(), clusters))
    return {"value": x.mean(), "low": low, "high": high}


def _gap_closed(rates: pd.DataFrame, bootstrap: Bootstrap, rows: np.ndarray) -> tuple[dict | None, str]:
    """Returns (interval, ""), or (None, reason)."""
    if "complex" not in rates or not rows.any():
        return None, "the arm `complex` has no prompt with a keyword prompt"
    chosen = rates[rows]
    interval = bootstrap.subset(rows).gap_closed(chosen["baseline"], chosen["adapter"], chosen["complex"])
    if interval is None:
        gap = (chosen["complex"] - chosen["baseline"]).mean()
        reason = f"complex − baseline is {gap:+.3f} over {len(chosen)} prompts, and its interval is not above 0: there is no gap to close"
        return None, reason
    return dict(zip(("value", "low", "high"), interval, strict=True)), ""


def _quality(arms_by_metric: dict[str, pd.DataFrame], bootstrap: Bootstrap, tolerance: float) -> dict:
    """Returns means by arm, adapter − baseline, and `regressed`: 1 if the interval lies below a loss of tolerance · |baseline|."""
    result = {}
    for name, arms in arms_by_metric.items():
        pair = arms[["adapter", "baseline"]].to_numpy()  # (N, 2)
        value, low, high = bootstrap.mean(pair[:, 0] - pair[:, 1])
        _, _, margin = bootstrap.interval(lambda means: means[..., 0] - means[..., 1] + tolerance * abs(means[..., 1]), pair)
        result[name] = dict(arms.mean()) | {"difference": {"value": value, "low": low, "high": high}, "regressed": int(margin < 0)}
    return result | {"regressed": max(metric["regressed"] for metric in result.values())}


def _win_rate(judgements: pd.DataFrame, column: str, categories: pd.Series, bootstrap: Bootstrap) -> dict:
    """Returns how often the adapter's image is better than the baseline's of the same prompt and seed; a tie is half a win."""
    wide = judgements.set_index(["id", "seed", "arm"])[column].unstack("arm")
    wins = (wide["adapter"] > wide["baseline"]) + 0.5 * (wide["adapter"] == wide["baseline"])
    value, low, high = bootstrap.mean(wins.groupby("id").mean().loc[categories.index].to_numpy())
    return {"value": value, "low": low, "high": high}


def _agreement(judgements: pd.DataFrame, columns: Sequence[str]) -> dict:
    """Computes Spearman's ρ of each metric with the judge's verdict, over all images."""
    verdict = judgements.soft if judgements.soft.notna().all() else judgements.shown
    if verdict.isna().any():
        return {}
    return {name: spearman(judgements[name], verdict) for name in columns if judgements[name].notna().all()}


def round_floats(tree: dict) -> dict:
    """Sorts keys, turns numpy numbers into Python's and rounds them; leaves NaN out, which would be in every `dvc metrics diff`."""
    result = {}
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, dict):
            result[key] = round_floats(value)
        elif np.isfinite(value):
            result[key] = int(value) if isinstance(value, (int, np.integer)) else round(float(value), DIGITS) + 0.0  # no −0.0
    return result


def _flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
