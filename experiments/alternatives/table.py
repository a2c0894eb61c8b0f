"""Summarizes the judged images of all arms, and formats the page."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from experiments.alternatives.arms import ARMS, OURS
from sur_adapter.evaluation.trainings import mean_over_trainings
from sur_adapter.generation.prompts import MAIN

OVERALL = "overall"
HEAD = """# What to use in place of the adapter

Written by `python -m experiments.alternatives`; the same figures are in `alternatives.json`.
"""
NOT_RUN = HEAD + "\nNot run yet with the present prompts and data.\n"
EXPLANATION = """All arms draw the same prompts from the same noise, with the sampler settings of params.yaml, and the same judge
judges them. Trained arms see the same pairs in the same order: {steps:,} steps of {batch} pairs, {trainings}. Accuracy is the share of
right images, with 95 % intervals over prompts and trainings ([method](../sur_adapter/evaluation/trainings.py)){one}. n: prompts × images
of each.

`training` and `peak memory` are those of the process, from its start to the saved weights ({machine}){gpu}. `features` is what was
computed once before, for all trainings: outputs of frozen models, and the LLM's answers. `per image`: in batches of {images} images.
"""
RATES = """The learning rate of {arms} was chosen from {rates} by the share of right images of {prompts} plain
development prompts after {steps:,} steps, with one seed. Development prompts have the templates of training, and none of them is a prompt
of this comparison, so no measured prompt chose a setting of an alternative. The shares:
"""
FAIR = """The settings of the adapter itself were chosen in many more comparisons than these learning rates (LOG.md). The LoRAs have rank 8
on the projections q, k, v and out of every attention layer of the text encoder, AdamW, and the learning rate schedule of params.yaml. In 5
of 100 pairs the empty prompt replaces both prompts, because a LoRA also changes the unconditional branch. A LoRA is merged into the text
encoder before images are drawn.
"""


def summarize(judged: Mapping[str, list[pd.DataFrame]]) -> dict[str, dict]:
    """Summarizes accuracies. judged: arm -> a table per training (one, for an arm without) with set, id, category, seed, shown.

    Returns arm -> {"accuracy": set -> category and "overall" -> interval, "difference": set -> interval of arm − our adapter}.
    Raises ValueError if arms have different images.
    """
    keys = ["set", "id", "category", "seed"]
    first, *others = (table[keys].sort_values(keys).to_numpy().tolist() for tables in judged.values() for table in tables)
    if any(other != first for other in others):
        raise ValueError("the arms hold images of different prompts: remove data/alternatives/images and start again")
    rates = {arm: [table.groupby(["set", "id"], sort=True).shown.mean() for table in tables] for arm, tables in judged.items()}
    table = next(iter(judged.values()))[0]
    categories = table.drop_duplicates("id").set_index(["set", "id"]).category
    result = {}
    for arm, own in rates.items():
        x, index = np.stack(own), own[0].index  # (T, N)
        strata, sets = categories.loc[index].to_numpy(), index.get_level_values("set")
        result[arm] = {"accuracy": {}, "difference": {}}
        for name in dict.fromkeys(table["set"]):
            groups = {OVERALL: sets == name} | {c: (sets == name) & (strata == c) for c in sorted(set(strata[sets == name]))}
            result[arm]["accuracy"][name] = {
                group: _interval(np.clip(mean_over_trainings(x[:, rows], strata[rows]), 0, 1)) for group, rows in groups.items()
            }
            if arm != OURS and OURS in rates:
                rows = groups[OVERALL]
                difference = _paired(x, np.stack(rates[OURS]))[:, rows]
                result[arm]["difference"][name] = _interval(mean_over_trainings(difference, strata[rows]))
    return result


def _paired(x: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Returns x − ours by training, (T, N); an arm without training is the same for all of them."""
    count = max(len(x), len(ours))
    return np.broadcast_to(x, (count, x.shape[1])) - np.broadcast_to(ours, (count, x.shape[1]))


def count_prompts(judged: Mapping[str, list[pd.DataFrame]]) -> dict[str, dict]:
    """Returns set -> prompts, images of each, and prompts of each category."""
    table = next(iter(judged.values()))[0]
    return {
        name: {
            "prompts": rows.id.nunique(),
            "images": int(rows.seed.nunique()),
            "categories": rows.groupby("category").id.nunique().to_dict(),
        }
        for name, rows in table.groupby("set", sort=False)
    }


def _interval(values) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(("value", "low", "high"), values, strict=True)}


def format_page(summary: dict) -> str:
    """Formats alternatives.json as Markdown; a page without figures if no arm has run."""
    arms = summary.get("arms", {})
    if not arms:
        return NOT_RUN
    several = summary["trainings"] > 1
    about = EXPLANATION.format(
        steps=summary["steps"],
        batch=summary["batch_size"],
        trainings=f"{summary['trainings']} trainings each" if several else "one training each",
        one="" if several else "; with one training they do not hold the chance of training",
        machine=summary["machine"],
        gpu=" and, after the comma, that on the GPU" if any("peak_gpu_mb" in arm for arm in arms.values()) else "",
        images=summary["images_per_batch"],
    )
    parts = [HEAD, about, _main_table(summary), _training_table(summary), *_rates(summary), FAIR]
    parts += [_set_table(summary, name) for name in summary["sets"]]
    return "\n".join(parts)


def _main_table(summary: dict) -> str:
    sets = [f"{name} (n = {block['prompts']} × {block['images']})" for name, block in summary["sets"].items()]
    rows = [["arm", "trained parameters", "training", "features", "peak memory", "per image", *sets]]
    for name, arm in summary["arms"].items():
        cost = [_count(arm.get("parameters")), _seconds(arm.get("seconds")), _seconds(arm.get("feature_seconds")), _memory(arm)]
        shares = [_share(arm["accuracy"][kind][OVERALL]) for kind in summary["sets"]]
        rows.append([ARMS[name].label, *cost, _per_image(arm), *shares])
    return _table(rows)


def _training_table(summary: dict) -> str:
    rows = [["arm", "learns", "pairs seen", "sentences seen", "learning rate", "needs at inference"]]
    for name, arm in summary["arms"].items():
        if ARMS[name].training:
            pairs = f"{arm['pairs_seen']:,} of {arm['pairs']:,}"
            sentences = f"{arm['sentences_seen']:,} of {arm['sentences']:,}" if arm["sentences_seen"] else "none"
            rows.append([ARMS[name].label, ARMS[name].learns, pairs, sentences, f"{arm['lr']:g}", ARMS[name].needs])
        else:
            size = f" ({arm['llm_parameters']:,} parameters)" if "llm_parameters" in arm else ""
            rows.append([ARMS[name].label, "–", "–", "–", "–", ARMS[name].needs + size])
    return _table(rows)


def _rates(summary: dict) -> list[str]:
    chosen = {name: arm["rates"] for name, arm in summary["arms"].items() if arm.get("rates")}
    if not chosen:
        return []
    values = [f"{float(rate):g}" for rate in next(iter(chosen.values()))]
    names = [f"“{ARMS[name].label}”" for name in chosen]
    fill = {"rates": _listed(values), "prompts": summary["development"]["prompts"], "steps": summary["development"]["steps"]}
    text = RATES.format(arms=_listed(names), **fill)
    rows = [["arm", *values]] + [[ARMS[name].label, *(f"{share:.3f}" for share in shares.values())] for name, shares in chosen.items()]
    return [text, _table(rows)]


def _set_table(summary: dict, name: str) -> str:
    block = summary["sets"][name]
    groups = [OVERALL, *block["categories"]] if len(block["categories"]) > 1 else [OVERALL]
    rows = [["arm", *groups, "− our adapter"]]
    for key, arm in summary["arms"].items():
        difference = arm["difference"].get(name)
        shares = [_share(arm["accuracy"][name][group], 3) for group in groups]
        rows.append([ARMS[key].label, *shares, _signed(difference) if difference else ""])
    title = "main set" if name == MAIN else name
    return f"## {title} (n = {block['prompts']} × {block['images']})\n\n{_table(rows)}"


def _table(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]) + "\n"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _count(number: int | None) -> str:
    return f"{number:,}" if number else "0"


def _seconds(seconds: float | list | None) -> str:
    if isinstance(seconds, list):
        seconds = None if None in seconds or not seconds else float(np.mean(seconds))
    return "–" if seconds is None else f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _memory(arm: dict) -> str:
    parts = [f"{arm[key] / 1000:.2f} GB" for key in ("peak_memory_mb", "peak_gpu_mb") if arm.get(key)]
    return ", ".join(parts) or "–"


def _per_image(arm: dict) -> str:
    if arm.get("seconds_per_image") is None:
        return "–"
    rewriting = f" + {1000 * arm['rewriting_per_prompt']:.0f}" if arm.get("rewriting_per_prompt") else ""
    return f"{1000 * arm['seconds_per_image']:.0f}{rewriting} ms"


def _share(interval: dict[str, float], digits: int = 2) -> str:
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(interval[key] for key in ("value", "low", "high")), d=digits)


def _signed(interval: dict[str, float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*(interval[key] for key in ("value", "low", "high"))).replace("-", "−")
