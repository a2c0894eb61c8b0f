"""Evaluates the images of all arms: measures each image, summarizes, and selects what the report and the vote page show."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.evaluation.confusion import finding_columns, requested_count
from sur_adapter.evaluation.embedding_distance import embedding_distance
from sur_adapter.evaluation.generated_images import ImageKey, check_same_images, generated_arms, pipeline_texts, read_images
from sur_adapter.evaluation.human_votes import answer_key, summarize_votes
from sur_adapter.evaluation.image_quality import IMAGE_STATISTICS
from sur_adapter.evaluation.measurement_cache import GeneratedImage
from sur_adapter.evaluation.measurements import Measurements
from sur_adapter.evaluation.metrics import SetMetric
from sur_adapter.evaluation.prompt_sets import judge_sets, summarize_sets
from sur_adapter.evaluation.rewriting import compare_with_rewriting, count_weights, read_answers
from sur_adapter.evaluation.sample_selection import Key, sample_pairs, select_samples
from sur_adapter.evaluation.strength_sweep import accuracy_by_strength
from sur_adapter.evaluation.summary import round_floats, summarize
from sur_adapter.evaluation.teacher import measure_teacher
from sur_adapter.features.store import FeatureStore
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.prompts import MAIN
from sur_adapter.models.clip import CLIPEncoder, cosine_scores, mean_pairwise_distances

BATCH = 32  # images per call of a measurement


@dataclass(frozen=True)
class EvaluateConfig:
    """params.yaml: evaluate.

    judge, metrics: plug-ins of evaluation/judges and evaluation/metrics, by name or as {name: settings}. clip: an independent CLIP model,
    by folder or hub id. tolerance: share of a quality metric that may be lost. margin: of accuracy, by which an arm that must not be worse
    than another may be (summary.NOT_WORSE). num_vote_pairs: of each kind and category, on the vote page.
    """

    judge: str | dict[str, Any] | None = None
    clip: str | None = None
    metrics: tuple[str, ...] | dict[str, Any] | None = None
    tolerance: float = 0.05
    margin: float = 0.03
    bootstrap_resamples: int = 10_000
    seed: int = 0
    num_vote_pairs: int = 20

    def __post_init__(self):
        if self.bootstrap_resamples < 100:
            raise ValueError(f"bootstrap_resamples is {self.bootstrap_resamples}: give at least 100, better 10000")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}: give the share of a metric that may be lost, from 0 to below 1")
        if not 0 < self.margin < 1:
            raise ValueError(f"margin is {self.margin}: give the loss of accuracy that does not matter, above 0 and below 1, such as 0.03")
        if self.num_vote_pairs < 1:
            raise ValueError(f"num_vote_pairs is {self.num_vote_pairs}: give at least 1 pair per category")


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate_images`."""

    metrics: dict  # of metrics.json
    notes: dict[str, str]  # metric that is left out -> reason
    judgements: pd.DataFrame  # a row per image, those of the set MAIN first
    samples: dict[str, list[Key]]  # of sample_selection.select_samples
    vote_key: pd.DataFrame  # of human_votes.answer_key
    images: dict[ImageKey, bytes]  # the files of the samples and of the pairs to vote on
    rewritten: pd.DataFrame  # of rewriting.read_answers


def evaluate_images(
    config: EvaluateConfig,
    measurements: Measurements,
    sets: Mapping[str, list[dict]],
    images: Path,
    adapter: Path,
    features: Path | None = None,
    votes: pd.DataFrame | None = None,
    sweep: Path | None = None,
    sentences: Path | None = None,
    answers: Path | None = None,
) -> Evaluation:
    """Evaluates the arms in the folder `images`.

    sets: the prompts (prompts.read_prompt_sets); all but `sets`, `rewrite` and `teacher` in the metrics is about the set MAIN.
    adapter: its folder; features: folder of the text encoder's features; votes: of human_votes.read_votes; sweep: folder of images by
    strength; sentences, answers: as in `measure_teacher`. Raises ValueError or FileNotFoundError as `measure_images` does.
    """
    prompts, other_sets = {row["id"]: row for row in sets[MAIN]}, {name: rows for name, rows in sets.items() if name != MAIN}
    table, embeds = measure_images(images, prompts, measurements, {row["id"] for rows in other_sets.values() for row in rows})
    judged = all_judgements(table, judge_sets(images, other_sets, measurements.caches.get("judge")))
    samples, pairs = select_samples(table, config.seed), sample_pairs(table, config.num_vote_pairs, config.seed)
    shown = {key for keys in samples.values() for key in keys} | set(pairs)  # (prompt id, seed)
    files = {key: data for key, data in read_images(images, list(table.arm.unique())) if key[1:] in shown}
    vote_key = answer_key(pairs, prompts, files, config.seed)
    with_complex = {name for name, prompt in prompts.items() if prompt.get("complex_prompt")}
    options = {"tolerance": config.tolerance, "metrics": measurements.metrics, "margin": config.margin}
    metrics, notes = summarize(table, with_complex, config.bootstrap_resamples, config.seed, **options)
    notes |= missing_notes(table, measurements)
    rewritten = read_answers(images, sets)
    for more_metrics, more_notes in (
        compare_sets(table, embeds, measurements.set_metrics),
        measure_embedding_distance(adapter, features),
        measure_strength(sweep, prompts, measurements),
        summarize_sets(judged, other_sets, config.bootstrap_resamples, config.seed),
        compare_with_rewriting(judged, rewritten, count_weights(images, adapter), config.bootstrap_resamples, config.seed),
        measure_teacher(sentences, answers),
        ({}, {}) if votes is None else summarize_votes(votes, vote_key, config.bootstrap_resamples, config.seed),
    ):
        metrics, notes = metrics | round_floats(more_metrics), notes | more_notes
    return Evaluation(metrics, notes, judged, samples, vote_key, files, rewritten)


def all_judgements(table: pd.DataFrame, of_other_sets: pd.DataFrame) -> pd.DataFrame:
    """Returns the judgements of the set MAIN, followed by those of the other sets; what was not measured for those is NaN."""
    table = table.assign(set=MAIN)
    return pd.concat([table, of_other_sets], ignore_index=True) if len(of_other_sets) else table


def measure_images(
    images: Path, prompts: Mapping[str, dict], measurements: Measurements, other_sets: Container[str] = ()
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Measures every image of the main set. Returns (judgements, CLIP embeddings (N, d) or None).

    judgements: a row per image, with the columns JUDGEMENTS (summary.py) and measurements.metrics.
    images: folder of the arms; prompts: by id; other_sets: ids of the prompts of other sets, whose images are left out. Raises
    FileNotFoundError for a missing arm, ValueError if arms differ in prompts or seeds.
    """
    arms = generated_arms(images)
    texts, rows, numbers = pipeline_texts(images, arms), [], {name: [] for name in measurements.caches}
    members = ((key, data) for key, data in read_images(images, arms) if key[1] not in other_sets)
    with tqdm(desc="evaluate", unit="image", disable=None) as bar:
        while batch := list(islice(members, BATCH)):
            rows += [_row(key, prompts, texts.get(key[:2], "")) for key, _ in batch]
            generated = [GeneratedImage(data, prompts[key[1]]) for key, data in batch]
            for name, measure in measurements.caches.items():
                numbers[name].append(measure(generated))
            bar.update(len(batch))
    table = pd.DataFrame(rows, columns=["id", "category", "template", "arm", "seed", "text", "asked"])
    check_same_images(table, arms, images)
    return _add_columns(table, {name: np.concatenate(values) for name, values in numbers.items()}, prompts, measurements)


def _add_columns(
    table: pd.DataFrame, numbers: dict[str, np.ndarray], prompts: Mapping[str, dict], measurements: Measurements
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Adds the numbers, (N, K) by measurement, to the table; columns that were not measured are NaN."""
    verdicts, embeds = numbers.get("judge"), numbers["clip"].astype(np.float32) if measurements.clip else None
    for column, name in enumerate(("shown", "soft", "counted")):  # a judge gives the first one, two or all of them
        table[name] = np.nan if verdicts is None or verdicts.shape[1] <= column else verdicts[:, column]
    table = table.assign(**finding_columns(verdicts, measurements.findings, len(table)))
    table["clip_score"] = table["distance"] = np.nan
    if embeds is not None:
        table["clip_score"], table["distance"] = _clip_columns(table, embeds, prompts, measurements.clip)
    columns = dict(zip(IMAGE_STATISTICS, numbers["statistics"].T, strict=True))
    return table.assign(**columns, **{name: numbers[name][:, 0] for name in measurements.metrics}), embeds


def _row(key: ImageKey, prompts: Mapping[str, dict], text: str) -> dict:
    arm, name, seed = key
    if name not in prompts:
        raise ValueError(f"the arm {arm} has an image of {name!r}, which is not in the prompt list: generate the arm again with this list")
    prompt = prompts[name]
    about = {"id": name, "category": prompt["category"], "template": prompt.get("template")}
    return about | {"arm": arm, "seed": seed, "text": text, "asked": requested_count(prompt)}


def _clip_columns(table: pd.DataFrame, embeds: np.ndarray, prompts: Mapping[str, dict], clip: CLIPEncoder) -> tuple[np.ndarray, np.ndarray]:
    """Returns 100 · CLIP score with the plain prompt, in every arm, and the mean distance to the images of other seeds, (N,) each."""
    names = list(dict.fromkeys(table.id))
    text_embeds = dict(zip(names, clip.encode_texts([prompts[name]["prompt"] for name in names]), strict=True))
    distance = np.empty(len(table))
    for rows in table.groupby(["arm", "id"]).indices.values():
        distance[rows] = mean_pairwise_distances(embeds[rows])
    return 100 * cosine_scores(embeds, np.stack([text_embeds[name] for name in table.id])), distance


def missing_notes(table: pd.DataFrame, measurements: Measurements) -> dict[str, str]:
    """Explains why metrics of the judge, of CLIP or of an arm are left out. Returns metric -> reason."""
    notes = {}
    if not measurements.judge:
        notes["semantic"] = "evaluate.judge is null, so nothing decided what the images show"
    if not measurements.clip:
        notes |= dict.fromkeys(("clip_score", "diversity"), "evaluate.clip is null: name an independent CLIP")
    elif table.seed.nunique() < 2:
        notes["diversity"] = "it needs at least two seeds per prompt"
    return notes | {f"semantic.*.{arm}": "this arm was not generated" for arm in ARMS if arm not in set(table.arm)}


def compare_sets(table: pd.DataFrame, embeds: np.ndarray | None, set_metrics: Mapping[str, SetMetric]) -> tuple[dict, dict]:
    """Measures the distance of each arm's images to those of the arm `complex`, by each metric. Returns (metrics, notes)."""
    arms, distances, notes = [arm for arm in ARMS if arm in set(table.arm)], {}, {}
    per_arm = len(table) // len(arms)
    for name, metric in set_metrics.items():
        if embeds is None or "complex" not in arms:
            notes[f"distance.{name}"] = "it needs evaluate.clip and the arm `complex`"
        elif per_arm < metric.MIN_IMAGES:
            notes[f"distance.{name}"] = f"it needs {metric.MIN_IMAGES} images per arm, and there are {per_arm}: use more prompts or seeds"
        else:
            by_arm = {arm: embeds[(table.arm == arm).to_numpy()] for arm in arms}
            distances[name] = {arm: metric.compare(by_arm[arm], by_arm["complex"]) for arm in arms if arm != "complex"}
    return {"distance": distances} if distances else {}, notes


def measure_embedding_distance(adapter: Path, features: Path | None) -> tuple[dict, dict]:
    """Measures the distance of adapted plain prompts to keyword prompts on the test split. Returns (metrics, notes).

    features: cache of the text encoder.
    """
    if features is None:
        return {}, {"embedding": "no cached features were given"}
    store = FeatureStore(features)
    if not len(store.rows_of_split("test")):
        return {}, {"embedding": "the test split has no cached pair"}
    return {"embedding": embedding_distance(SURAdapter.from_pretrained(adapter), store)}, {}


def measure_strength(sweep: Path | None, prompts: dict[str, dict], measurements: Measurements) -> tuple[dict, dict]:
    """Measures the accuracy at each strength of the adapter. Returns (metrics, notes)."""
    if sweep and not measurements.judge:
        return {}, {"strength": "evaluate.judge is null"}
    accuracy = accuracy_by_strength(sweep, prompts, measurements.caches["judge"]) if sweep else {}
    return ({"strength": accuracy}, {}) if accuracy else ({}, {"strength": "no images of a sweep were generated (sweep.strengths)"})
