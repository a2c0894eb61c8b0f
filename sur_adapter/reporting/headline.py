"""What the report says first: whether the adapter helps, and what is worse with it."""

from sur_adapter.generation.prompts import PromptSets
from sur_adapter.reporting.html import number, percent, signed

MAIN_METRICS = ("clip_score", "diversity")  # shown at once; the others unfold


def role_of_prompts(settings: dict) -> str:
    """Returns "development " or "test " if the prompts are those of params.yaml: prompt_sets."""
    sets, prompts = settings.get("prompt_sets") or {}, (settings.get("generate") or {}).get("prompts", "")
    role = PromptSets(**sets).role(prompts)
    return f"{role} " if role else ""


def headline(metrics: dict, notes: dict) -> dict:
    """Returns what the report says first: title; verdict: whether the adapter helps; gap that is closed; gap_note: why it is left out.

    worse: the metrics that are worse with the adapter, with their values; sets: set -> accuracy without and with the adapter.
    """
    semantic, more = metrics.get("semantic"), {"worse": worse_metrics(metrics), "sets": _set_accuracies(metrics.get("sets", {}))}
    if not semantic:
        title, verdict = "Plain prompts with and without the adapter", notes.get("semantic", "")
        return {"title": title, "verdict": verdict, "gap": None, "gap_note": "", **more}
    rates, test = {arm: semantic["overall"][arm]["value"] for arm in semantic["overall"]}, semantic["difference"]
    title = f"Plain prompts: {percent(rates['baseline'])} of the images are right without the adapter, {percent(rates['adapter'])} with it"
    value, low, high = (signed(100 * test[key]) for key in ("value", "low", "high"))
    points = f"{value} points, 95 % interval {low} to {high}"
    if test["low"] > 0:
        verdict = f"The adapter helps: {points}."
    elif test["high"] < 0:
        verdict = f"The adapter does harm: {points}."
    else:
        verdict = f"No difference is shown: {points}."
    if "complex" in rates:
        title += f" (keyword prompts: {percent(rates['complex'])})"
    gap, gap_note = semantic["gap_closed"], notes.get("semantic.gap_closed", "")
    return {"title": title, "verdict": verdict, "gap": gap if "value" in gap else None, "gap_note": gap_note, **more}


def worse_metrics(metrics: dict) -> list[str]:
    """Describes the image metrics that are worse with the adapter than without it.

    A metric with an interval is worse if the whole interval of adapter − baseline is below 0, or if it regressed by more than
    `evaluate.tolerance`; one without an interval, such as diversity, if its mean is worse. Less distance is better.
    """
    higher_is_better = {name: metrics[name] for name in MAIN_METRICS if name in metrics}
    higher_is_better |= {name: by_arm for name, by_arm in metrics["quality"].items() if isinstance(by_arm, dict)}
    worse = [_change(name, by_arm) for name, by_arm in higher_is_better.items() if _is_lower(by_arm)]
    distances = {name: by_arm for name, by_arm in metrics.get("distance", {}).items() if by_arm["adapter"] > by_arm["baseline"]}
    return worse + [_change(f"distance {name}", by_arm) for name, by_arm in distances.items()]


def _is_lower(by_arm: dict) -> bool:
    if "difference" in by_arm:
        return bool(by_arm["difference"]["high"] < 0 or by_arm.get("regressed"))
    return by_arm["adapter"] < by_arm["baseline"]


def _change(name: str, by_arm: dict) -> str:
    """Describes a metric: its means with and without the adapter, the relative change, and the mean of keyword prompts."""
    adapter, baseline = by_arm["adapter"], by_arm["baseline"]
    change = [f"{signed(100 * (adapter - baseline) / abs(baseline))} %"] if baseline else []
    change += [f"keyword prompts {format_metric(by_arm['complex'])}"] if "complex" in by_arm else []
    details = f" ({'; '.join(change)})" if change else ""
    return f"{name.replace('_', ' ')} {format_metric(adapter)} instead of {format_metric(baseline)}{details}"


def _set_accuracies(sets: dict) -> dict[str, tuple[float, float]]:
    return {name: (block["baseline"]["overall"]["value"], block["adapter"]["overall"]["value"]) for name, block in sets.items()}


def format_metric(value: float | None) -> str:
    return "–" if value is None else number(value, f".{1 if abs(value) >= 1 else 3}f")
