"""Accuracy on the sets of prompts beside the main one: sub-folders of the prompts, such as `reasoning`.

Their images are only judged, so that they cost little; their numbers have a block of their own, `sets`, in metrics.json.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import pandas as pd

from sur_adapter.evaluation.generated_images import check_same_images, generated_arms, pipeline_texts, read_images
from sur_adapter.evaluation.measurement_cache import GeneratedImage
from sur_adapter.evaluation.statistics import Bootstrap
from sur_adapter.evaluation.summary import by_prompt, category_names, check_names, clusters_of, rate, summarize_accuracy
from sur_adapter.generation.arms import ARMS

BATCH = 32  # images per call of the judge
COLUMNS = ["set", "id", "category", "template", "arm", "seed", "text", "shown", "soft"]
TAG_ARMS = ("baseline", "adapter", "rewrite", "complex")  # accuracy by tag is for these


def judge_sets(images: Path, sets: Mapping[str, list[dict]], judge: Callable | None) -> pd.DataFrame:
    """Judges the images of the sets. Returns a row per image with COLUMNS; no row without a judge or without images of the sets.

    images: folder of the arms; sets: name -> prompts; judge(images) -> (N, 1 to 3). Raises ValueError if arms differ in prompts or seeds.
    """
    prompts = {row["id"]: (name, row) for name, rows in sets.items() for row in rows}
    if not prompts or judge is None:
        return pd.DataFrame(columns=COLUMNS)
    arms = [arm for arm in generated_arms(images) if not ARMS[arm].main_only]
    texts, rows = pipeline_texts(images, arms), []
    members = ((key, data) for key, data in read_images(images, arms) if key[1] in prompts)
    while batch := list(islice(members, BATCH)):
        verdicts = judge([GeneratedImage(data, prompts[key[1]][1]) for key, data in batch])  # (N, 1 to 3)
        for ((arm, name, seed), _), verdict in zip(batch, verdicts, strict=True):
            in_set, prompt = prompts[name]
            soft = verdict[1] if len(verdict) > 1 else float("nan")
            rows.append(
                (
                    in_set,
                    name,
                    prompt["category"],
                    prompt.get("template"),
                    arm,
                    seed,
                    texts.get((arm, name), ""),
                    float(verdict[0]),
                    float(soft),
                )
            )
    table = pd.DataFrame(rows, columns=COLUMNS)
    if rows:
        check_same_images(table, arms, images)
    return table


def summarize_sets(judgements: pd.DataFrame, sets: Mapping[str, list[dict]], resamples: int, seed: int) -> tuple[dict, dict]:
    """Summarizes the judgements of `judge_sets`. Returns ({"sets": set -> its metrics}, notes).

    Metrics of a set: arm -> category and "overall" -> value, low, high; `difference` and `gap_closed` as in `semantic`;
    `tags`: the same rates by the prompts' tag, where a set has several; `counts`.
    Raises ValueError if a category has the name of a key of metrics.json.
    """
    blocks, notes = {}, {}
    for name, rows in sets.items():
        judged = judgements[judgements["set"] == name]
        if judged.empty:
            notes[f"sets.{name}"] = "no image of it was judged: generate the arms with this set, and set evaluate.judge"
            continue
        blocks[name], reasons = _summarize_set(judged, rows, resamples, seed)
        notes |= {f"sets.{name}.{key}": reason for key, reason in reasons.items()}
    return {"sets": blocks} if blocks else {}, notes


def _summarize_set(judgements: pd.DataFrame, prompts: list[dict], resamples: int, seed: int) -> tuple[dict, dict]:
    categories = categories_of(judgements)
    check_names(categories)
    rates = by_prompt(judgements, "shown", categories)
    with_complex = {row["id"] for row in prompts if row.get("complex_prompt")}
    bootstrap = Bootstrap(categories.to_numpy(), resamples, seed, clusters_of(judgements, categories.index))
    accuracy, notes = summarize_accuracy(rates, bootstrap, with_complex)
    names = [*category_names(accuracy), "overall"]
    block = {arm: {name: accuracy[name][arm] for name in names} for arm in rates}
    block |= {key: accuracy[key] for key in ("difference", "gap_closed") if accuracy.get(key)}
    if tags := _by_tag(rates, {row["id"]: row["tag"] for row in prompts if isinstance(row.get("tag"), str)}):
        block["tags"] = tags
    block["counts"] = {"prompts": len(categories), "pictures": len(judgements)} | dict(Counter(categories))
    return block, notes


def categories_of(judgements: pd.DataFrame) -> pd.Series:
    """Returns prompt id -> category."""
    return judgements.drop_duplicates("id").set_index("id").category


def _by_tag(rates: pd.DataFrame, tags: dict[str, str]) -> dict:
    """Returns tag -> {"prompts": number, arm: rate}; {} if all prompts have one tag."""
    tag = pd.Series([tags.get(name) for name in rates.index], rates.index)
    if tag.nunique() < 2:
        return {}
    arms = [arm for arm in TAG_ARMS if arm in rates]
    return {name: {"prompts": len(rows)} | {arm: rate(rows[arm]) for arm in arms} for name, rows in rates.groupby(tag)}
