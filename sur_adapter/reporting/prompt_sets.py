"""What the report shows of the other sets of prompts, and of rewriting by the language model."""

import numpy as np
import pandas as pd

from sur_adapter.generation.prompts import MAIN
from sur_adapter.reporting.charts import interval_charts

ARMS = ("baseline", "adapter", "rewrite", "complex")  # of the tables; the others are in metrics.json
SUMMARY_ARMS = ("baseline", "adapter", "complex")  # of the table of all sets, which must fit a phone
EXAMPLES = 6  # answers shown of each set


def set_tables(sets: dict | None) -> dict | None:
    """Returns the variables of templates/sections/sets.html: the arms of the summary, and those of each set. sets: of metrics.json."""
    if not sets:
        return None
    arms = [arm for arm in SUMMARY_ARMS if all(arm in block for block in sets.values())]
    return {"arms": arms, "sets": {name: _set_table(name, block) for name, block in sets.items()}}


def _set_table(name: str, block: dict) -> dict:
    arms = [arm for arm in ARMS if arm in block]
    categories = [*sorted(set(block["adapter"]) - {"overall"}), "overall"]
    rates = {category: {arm: block[arm][category] for arm in arms} for category in categories}
    intervals = {
        category.replace("_", " "): {arm: (rate["value"], rate["low"], rate["high"]) for arm, rate in by_arm.items()}
        for category, by_arm in rates.items()
    }
    return {
        "arms": arms,
        "rates": rates,
        "prompts": block["counts"]["prompts"],
        "difference": block["difference"],
        "gap": block["gap_closed"] if "value" in block.get("gap_closed", {}) else None,
        "tags": block.get("tags", {}),
        "charts": interval_charts(intervals, f"Accuracy, {name}"),
    }


def rewrite_table(metrics: dict, rewritten: pd.DataFrame | None) -> dict | None:
    """Returns the variables of templates/sections/rewrite.html. rewritten: of evaluation.rewriting.read_answers."""
    if "rewrite" not in metrics:
        return None
    blocks, weights = metrics["rewrite"]["sets"], metrics["rewrite"].get("weights", {})
    names = sorted(blocks, key=lambda name: (name != MAIN, name))
    rows = [{"set": name, **_accuracies(metrics, name), **blocks[name]} for name in names]
    examples = [row for name in names for row in _examples(rewritten, name)] if rewritten is not None else []
    return {"rows": rows, "weights": weights, "examples": examples}


def _accuracies(metrics: dict, name: str) -> dict:
    """Returns the accuracy of the two arms on a set, if it was judged. The main set has no block in `sets`."""
    if block := metrics.get("sets", {}).get(name):
        return {arm: block[arm]["overall"] for arm in ("adapter", "rewrite")}
    overall = metrics.get("semantic", {}).get("overall", {})
    return {arm: overall.get(arm) for arm in ("adapter", "rewrite")}


def _examples(rewritten: pd.DataFrame, name: str) -> list[dict]:
    """Returns some prompts of a set with their answers, evenly spaced over its list."""
    rows = rewritten[rewritten["set"] == name]
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows))).round().astype(int))
    answers = rows.iloc[chosen][["prompt", "answer"]].to_dict("records")
    return [{"set": name, "prompt": row["prompt"], "answer": row["answer"] if isinstance(row["answer"], str) else None} for row in answers]
