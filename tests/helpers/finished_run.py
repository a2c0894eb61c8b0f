"""A finished run up to `evaluate`, with a known number of correct images, so that all metrics are known exactly."""

import json
from pathlib import Path

import pandas as pd

from helpers.repository import ROOT
from helpers.small_models import encode
from helpers.stages import evaluate
from miniature.prompts import prompts
from miniature.scenes import CATEGORIES, make
from sur_adapter.generation.arms import ARMS
from sur_adapter.io.shards import write_table, write_tar

CLIP = str(ROOT / "models/miniature/clip")
EACH, SEEDS = 8, 2
RIGHT = {
    "baseline": 2,
    "adapter": 6,
    "complex": 8,
    "complex_adapter": 7,
    "expansion": 3,
    "rewrite": 5,
}  # of EACH prompts per category
SETTINGS = {"judge": "pictograms", "clip": CLIP, "bootstrap_resamples": 2000, "seed": 0}


def make_prompts(category: str, number: int) -> list[dict]:
    """Prompts without a template, so that each counts for itself in the intervals."""
    return [{key: value for key, value in p.items() if key != "template"} for p in prompts(category, number)]


PROMPTS = [p for category in CATEGORIES for p in make_prompts(category, EACH)]
UNPARSED = 1  # prompts per category that the language model gave no usable answer to


def prompt_set(categories: dict[str, str], start: int = EACH) -> list[dict]:
    """Prompts of a set beside PROMPTS. categories: category of the set -> that of the scenes."""
    return [
        p | {"id": f"{name}-{i:03d}", "category": name, "tag": ("odd" if i % 2 else "even")}
        for name, scenes in categories.items()
        for i, p in enumerate(make_prompts(scenes, start + EACH)[start:])
    ]


def scenes_of(prompt: dict) -> str:
    """The category of the scenes that a prompt describes, whatever its own category is."""
    include = prompt["include"]
    return "action" if "pose" in include[0] else "color" if len(include) == 2 else "counting"


def correct_image(prompt: dict) -> bytes:
    scenes = scenes_of(prompt)
    seed = next(s for s in range(3_000_000, 3_100_000) if make(s, scenes).include == prompt["include"])
    return encode(make(seed, scenes).draw())


def incorrect_image(prompt: dict, k: int) -> bytes:
    scenes = scenes_of(prompt)
    seed = next(s for s in range(100 + 50 * k, 10_000) if make(s, scenes).include != prompt["include"])
    return encode(make(seed, scenes).draw())


def write_arm(folder: Path, arm: str, rows: list[dict], correct: int, seeds: int = SEEDS) -> None:
    place = {p["id"]: int(p["id"][-3:]) for p in rows}
    members = [
        (f"{p['id']}-{k}", "png", correct_image(p) if place[p["id"]] < correct else incorrect_image(p, k))
        for p in rows
        for k in range(seeds)
    ]
    write_tar(folder / arm / "images-000000.tar", members)
    text = [p["complex_prompt"] if arm == "complex" else p["prompt"] for p in rows]
    columns = {"id": [p["id"] for p in rows], "category": [p["category"] for p in rows], "arm": arm, "text": text}
    if arm == "rewrite":
        answers = [None if place[p["id"]] < UNPARSED else p["complex_prompt"] for p in rows]
        columns |= {"answer": answers, "min_logprob": -0.1, "reason": [None if answer else "unparsable" for answer in answers]}
        (folder / arm / "llm.json").write_text(json.dumps({"model": "a/llm", "parameters": 3_000_000}))
    write_table(folder / arm / "prompts.parquet", pd.DataFrame(columns))


class FinishedRun:
    """Writes all inputs of the stage evaluate to one folder; `run` runs the stage."""

    def __init__(self, folder: Path, rows=PROMPTS, right=RIGHT, seeds=SEEDS, sets: dict[str, list[dict]] | None = None):
        self.prompts, self.images, self.reports, self.adapter = (folder / n for n in ("prompts", "images", "reports", "adapter"))
        for path in (self.prompts, self.reports / "train", self.adapter):
            path.mkdir(parents=True)
        (self.prompts / "all.jsonl").write_text("".join(json.dumps(p) + "\n" for p in rows), encoding="utf-8")
        self.write_sets(sets or {})
        for arm, correct in right.items():
            others = [] if ARMS[arm].main_only else sum((sets or {}).values(), [])
            write_arm(self.images, arm, [*rows, *others], correct, seeds)
        counts = {"in": 30, "kept": 20, "dropped": {"near_duplicate": 10}}
        funnel = counts | {"by_source": {"miniature": counts}, "by_split": {"train": 18, "validation": 1, "test": 1}}
        (self.reports / "funnel.json").write_text(json.dumps(funnel))
        history = [{"step": s, "loss": 1 / s, "gradient_norm": 0.1} for s in (50, 100, 150)]
        (self.reports / "train" / "history.json").write_text(json.dumps(history))
        (self.adapter / "config.json").write_text('{"width": 64, "about": {"llm": "a/folder/deep-in-a-disk/of/a-model-of-a-long-name"}}')

    def write_sets(self, sets: dict[str, list[dict]]) -> None:
        for name, rows in sets.items():
            (self.prompts / name).mkdir(exist_ok=True)
            (self.prompts / name / "all.jsonl").write_text("".join(json.dumps(p) + "\n" for p in rows), encoding="utf-8")

    def run(self, sweep=None, sentences=None, answers=None, timings=None, trainings=None, **changes) -> dict:
        r, more = self.reports, {"sweep": sweep, "sentences": sentences, "answers": answers, "timings": timings, "trainings": trainings}
        evaluate(self.prompts, self.images, r / "funnel.json", r / "train", self.adapter, r, **more, evaluate=SETTINGS | changes)
        return json.loads((r / "metrics.json").read_text())

    def notes(self) -> dict:
        return json.loads((self.reports / "notes.json").read_text())

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.reports)): p.read_bytes() for p in sorted(self.reports.rglob("*")) if p.is_file()}
