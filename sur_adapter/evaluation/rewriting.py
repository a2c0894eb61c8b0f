"""Compares the adapter with rewriting: the language model rewrites each prompt when images are drawn (arm `rewrite`), and no adapter.

Seconds are not measured here: they differ from run to run, and equal results must give equal files.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.evaluation.prompt_sets import categories_of
from sur_adapter.evaluation.statistics import Bootstrap
from sur_adapter.evaluation.summary import by_prompt, clusters_of, difference
from sur_adapter.generation.rewriting import ANSWERS, count_parameters
from sur_adapter.io.shards import read_table

BYTES = 2  # of a weight in 16 bits
ARM, PAIR = "rewrite", ("adapter", "rewrite")


def read_answers(images: Path, sets: Mapping[str, list[dict]]) -> pd.DataFrame:
    """Reads what the language model made of each prompt: set, id, prompt and ANSWERS; no row if the arm `rewrite` was not generated.

    sets: the prompts by set. A prompt whose image is missing is left out.
    """
    rows = [(name, row["id"], row["prompt"]) for name, prompts in sets.items() for row in prompts]
    table, file = pd.DataFrame(rows, columns=["set", "id", "prompt"]), images / ARM / "prompts.parquet"
    if not file.exists():
        return table.iloc[:0].reindex(columns=[*table, *ANSWERS.names])
    return table.merge(read_table(file).reindex(columns=["id", *ANSWERS.names]), on="id")


def count_weights(images: Path, adapter: Path) -> dict:
    """Returns the parameters of the adapter and, from llm.json of the arm `rewrite`, of the language model, with megabytes in 16 bits."""
    parameters, file = {}, images / ARM / "llm.json"
    if file.exists():
        parameters["llm"] = json.loads(file.read_text(encoding="utf-8"))["parameters"]
        if any(adapter.glob("*.safetensors")):
            parameters["adapter"] = count_parameters(SURAdapter.from_pretrained(adapter))
    return {name: {"parameters": number, "megabytes": number * BYTES / 1e6} for name, number in parameters.items()}


def compare_with_rewriting(judgements: pd.DataFrame, answers: pd.DataFrame, weights: dict, resamples: int, seed: int) -> tuple[dict, dict]:
    """Compares accuracies, set by set. Returns ({"rewrite": {"sets": set -> its metrics, "weights": …}}, notes).

    judgements: a row per image of all sets; answers: of `read_answers`; weights: of `count_weights`.

    Metrics of a set: `difference`, adapter − rewrite, and `ratio`, accuracy(adapter) / accuracy(rewrite), each with its interval, overall
    and by category (the p-value overall only); `answers`: the number of prompts, and of those that the model gave no usable answer to.
    """
    if ARM not in set(judgements.arm):
        return {}, {}
    blocks, notes = {}, {}
    for name, judged in judgements.groupby("set", sort=False):
        given = answers[answers["set"] == name]
        blocks[name] = {"answers": {"prompts": len(given), "unparsed": int(given.answer.isna().sum())}}
        if judged.shown.notna().all():
            compared, reasons = _compare(judged, resamples, seed)
            blocks[name] |= compared
            notes |= {f"rewrite.sets.{name}.{key}": reason for key, reason in reasons.items()}
    return {"rewrite": {"sets": blocks} | ({"weights": weights} if weights else {})}, notes


def _compare(judgements: pd.DataFrame, resamples: int, seed: int) -> tuple[dict, dict]:
    categories = categories_of(judgements)
    rates, clusters = by_prompt(judgements, "shown", categories), clusters_of(judgements, categories.index)
    bootstrap = Bootstrap(categories.to_numpy(), resamples, seed, clusters)
    masks = {name: (categories == name).to_numpy() for name in sorted(set(categories))}
    result: dict = {"difference": difference(rates, bootstrap, pair=PAIR), "ratio": {}}
    notes = {}
    for name, rows in {"": np.full(len(rates), True), **masks}.items():
        part = bootstrap.subset(rows)
        interval = part.ratio(rates["adapter"][rows], rates[ARM][rows])
        if interval is None:
            notes[f"ratio.{name}".rstrip(".")] = "the interval of the accuracy of `rewrite` holds 0"
        else:
            ratio = dict(zip(("value", "low", "high"), interval, strict=True))
            result["ratio"] |= {name: ratio} if name else ratio
        if name:
            mean = part.rate_difference((rates["adapter"] - rates[ARM])[rows].to_numpy())
            result["difference"][name] = dict(zip(("value", "low", "high"), mean, strict=True))
    return result, notes
