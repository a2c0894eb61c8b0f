"""The parts of the comparison, each made once: trainings, the choice of learning rates, and images. They start from a finished `dvc repro`.

    data/alternatives/trainings/<arm>-<digest>/    adapter, or model with a LoRA merged; what the training took; `done`
    data/alternatives/images/<arm>-<digest>/       images of the arm, seconds per image; `done`
    data/alternatives/development-<digest>/        plain development prompts, on which learning rates are chosen

A digest is that of the settings, the features and the prompts that a part depends on. Code is no part of it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.ablations.rows import STEPS, Row
from experiments.ablations.runs import FEATURES, PAIRS, Execute, Run, Workspace, digest, once, option_words, prompts_digest, write_params
from experiments.alternatives.arms import ARMS, OURS, Training
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.config import Params, from_dict
from sur_adapter.evaluation.evaluator import EvaluateConfig
from sur_adapter.evaluation.generated_images import read_images
from sur_adapter.evaluation.measurement_cache import GeneratedImage
from sur_adapter.evaluation.measurements import Measurements
from sur_adapter.features.store import FeatureSplit, FeatureStore
from sur_adapter.generation.prompts import MAIN, PromptSets, first_per_category, read_prompt_sets, read_prompts
from sur_adapter.generation.rewriting import count_parameters
from sur_adapter.io.hashing import folder_digest
from sur_adapter.tools.timing import measured_here, read_timings
from sur_adapter.training.dataset import keep_sure_answers

FOLDER, ADAPTER = Path("data/alternatives"), Path("models/adapter")
DEVELOPMENT_PROMPTS = 100  # of a category
SECTIONS = ("models", "cache", "sentences", "adapter", "loss", "train")  # on which a training depends
BATCH = 32  # images per call of the judge


def check_finished_run() -> None:
    """Raises FileNotFoundError, one sentence, for a folder without a finished `dvc repro`."""
    for path in (PAIRS, FEATURES / "clip", FEATURES / "queries"):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run `dvc repro` first; the alternatives are trained on its pairs and features")


@dataclass(frozen=True)
class Trained:
    """A finished training. folder: of `adapter`, or of `model`. seconds, peak_memory_mb: of its process; None if they were not measured.
    feature_seconds: of the cached features that it read, None likewise. lr: its learning rate."""

    folder: Path
    params: dict
    used: dict
    feature_seconds: float | None
    lr: float

    @property
    def adapter(self) -> Path | None:
        folder = self.folder / "adapter"
        return folder if folder.exists() else None

    @property
    def parameters(self) -> int:
        """Counts the weights that were trained."""
        if self.adapter is None:
            return json.loads((self.folder / "lora.json").read_text(encoding="utf-8"))["parameters"]
        model = SURAdapter.from_pretrained(self.adapter)
        is_fixed = model.projection is not None and self.params["loss"]["projection"] != "trained"
        return count_parameters(model) - (count_parameters(model.projection) if is_fixed else 0)


@dataclass(frozen=True)
class Comparison:
    """All parts for a workspace. prompts: file or folder of the prompts; steps: of each training, None for those of params.yaml."""

    workspace: Workspace
    execute: Execute
    prompts: Path
    steps: int | None = None

    @property
    def all_steps(self) -> int:
        return self.steps or self.workspace.params["train"]["steps"]

    @property
    def short_steps(self) -> int:
        """Steps of the trainings that a learning rate is chosen by."""
        return min(STEPS, self.all_steps)

    def train(self, name: str, seed: int) -> Trained:
        """Trains an arm with one seed, and first chooses its learning rate, with the seed of params.yaml, if it has several."""
        training = ARMS[name].training
        if name == OURS and self.steps is None and seed == self.workspace.params["train"]["seed"] and self.workspace.is_up_to_date:
            used = read_timings().get("train", {}) if "train" in measured_here(read_timings()) else {}
            run = self._run(name, training, seed, self.steps)
            return Trained(ADAPTER.parent, run.params, used, self._feature_seconds(self._features(run)), run.params["train"]["lr"])
        rates = self.rates(name)
        changes = {"train.lr": max(rates, key=rates.get)} if rates else {}
        return self._train(name, replace(training, changes=training.changes | changes), seed, self.steps)

    def rates(self, name: str) -> dict[float, float]:
        """Returns learning rate -> share of right images of plain development prompts, after a short training; {} for an arm with one.

        None of these prompts is a prompt of the comparison.
        """
        training, seed = ARMS[name].training, self.workspace.params["train"]["seed"]
        prompts = self.development_prompts() if training.rates else self.prompts
        settings = {"per_category": DEVELOPMENT_PROMPTS, "seeds": 1}
        found = {}
        for rate in training.rates:
            trained = self._train(name, replace(training, changes=training.changes | {"train.lr": rate}), seed, self.short_steps)
            images, _ = self.draw(name, trained, prompts, settings)
            found[rate] = float(self.judge(name, images, prompts).shown.mean())
        return found

    def development_prompts(self) -> Path:
        """Writes the plain prompts of prompt_sets.development without those that the comparison measures.

        Raises ValueError if none is left.
        """
        measured = {row["prompt"] for rows in read_prompt_sets(self.prompts).values() for row in rows}

        sets = from_dict(PromptSets, self.workspace.params.get("prompt_sets"), "prompt_sets")
        if not sets.development:
            raise ValueError("params.yaml: prompt_sets.development is missing: name prompts that the learning rates are chosen on")
        rows = first_per_category(read_prompts(Path(sets.development)), DEVELOPMENT_PROMPTS)
        lines = [json.dumps(row) + "\n" for row in rows if row["prompt"] not in measured]
        if not lines:
            raise ValueError(f"{self.prompts} are development prompts, on which the learning rates are chosen: name others with --prompts")

        def compute(folder: Path) -> None:
            (folder / "prompts").mkdir()
            (folder / "prompts/all.jsonl").write_text("".join(lines), encoding="utf-8")

        return once(FOLDER / f"development-{digest(lines)}", compute) / "prompts"

    def _run(self, name: str, training: Training, seed: int, steps: int | None) -> Run:
        shared = {} if steps is None else {"train.steps": steps}
        return Run(name, Row(ARMS[name].label, training.changes, shared=shared), seed, self.workspace)

    def _train(self, name: str, training: Training, seed: int, steps: int | None) -> Trained:
        run = self._run(name, training, seed, steps)
        params, features = run.params, self._features(run)

        def compute(folder: Path, file: Path) -> None:
            named = ("clip", "vae", "queries") if training.kind == "lora" else ("clip", "llm", "vae", "queries")
            paths = {part: FEATURES / part for part in named} | features
            own = {"pairs": PAIRS, "out": folder} if training.kind == "lora" else {"out": folder / "adapter", "reports": folder / "reports"}
            self.execute([training.kind, *option_words(paths | own)], file, folder / "log.txt")

        inputs = [{section: params.get(section) for section in SECTIONS}, self.workspace.data, training.kind]
        folder = once(FOLDER / "trainings" / f"{name}-{digest(inputs)}", lambda folder: compute(folder, write_params(folder, params)))
        used = _read_json(folder / f"{training.kind}-usage.json")
        return Trained(folder, params, used, self._feature_seconds(features), params["train"]["lr"])

    def _features(self, run: Run) -> dict[str, Path]:
        """Returns the folders of the features that a training reads; computes those that differ from the finished run's."""
        loss, of_lora = run.params["loss"], ARMS[run.name].training.kind == "lora"
        compares = (loss["w_prompt"] and loss["prompt"] == "attention") or (loss["w_llm"] and loss["llm"] != "kl")
        shared = {"clip": loss["w_prompt"] or not of_lora, "queries": compares}  # no row of the ablations computes others
        own = {
            "vae": loss["w_diffusion"],
            "llm": loss["w_llm"] and loss["llm"] == "kl",
            "sentences": loss["w_llm"] and loss["sentences"],
        }
        folders = {part: FEATURES / part for part, is_read in shared.items() if is_read}
        return folders | {part: run.features(part, self.execute) for part, is_read in own.items() if is_read}

    def _feature_seconds(self, features: Mapping[str, Path]) -> float | None:
        """Adds up the seconds of the stages that computed the features, on this machine; None if one was not measured here."""
        pipeline, seconds = measured_here(read_timings()), []
        for part, folder in features.items():
            own = folder.parent / "cache-usage.json"
            seconds.append(_read_json(own)["seconds"] if own.exists() else pipeline.get(f"cache@{part}"))
        return None if None in seconds else sum(seconds)

    def draw(self, name: str, trained: Trained | None, prompts: Path, settings: Mapping | None = None) -> tuple[Path, dict]:
        """Draws the images of an arm as the stage generate does, from the same noise. settings: changes of the section generate.

        Returns their folder and the seconds: `per_image`, None if there was only one batch, and `rewriting_per_prompt` of an LLM.
        """
        arm, params = ARMS[name].drawn_as, self.workspace.params | {"executor": {"kind": "inline"}}
        params = params | {"generate": params["generate"] | (settings or {}) | {"prompts": str(prompts)}}
        adapter = trained.adapter if trained else None
        if trained and adapter is None:
            params = params | {"models": params["models"] | {"diffusion": str(trained.folder / "model")}}

        def compute(folder: Path, file: Path) -> None:
            paths = {"prompts": prompts, "out": folder, "timings": folder / "timings"} | ({"adapter": adapter} if adapter else {})
            self.execute(["generate", "--arms", arm, *option_words(paths)], file, folder / "log.txt")

        sampler = {key: value for key, value in params["generate"].items() if key != "prompts"}
        inputs: list[Any] = [arm, params["models"], sampler, prompts_digest(params)]
        inputs.append(adapter and folder_digest(adapter, "*.safetensors"))
        if arm == "rewrite":
            inputs.append(params["cache"]["sentences"])
        folder = once(FOLDER / "images" / f"{name}-{digest(inputs)}", lambda folder: compute(folder, write_params(folder, params)))
        return folder, _read_json(folder / "timings" / f"{arm}.json")

    def judge(self, name: str, images: Path, prompts: Path) -> pd.DataFrame:
        """Judges the images of an arm. Returns a row per image: set, id, category, seed, shown. Raises ValueError without a judge."""
        config = Params(self.workspace.params).section("evaluate", EvaluateConfig)
        judge = Measurements(config.judge).caches.get("judge")
        if judge is None:
            raise ValueError("params.yaml: evaluate.judge is null, and the comparison needs a judge: name one")
        by_id = {row["id"]: (kind, row) for kind, rows in read_prompt_sets(prompts).items() for row in rows}
        members, table = read_images(images, [ARMS[name].drawn_as]), []
        while batch := list(islice(members, BATCH)):
            verdicts = judge([GeneratedImage(data, by_id[key][1]) for (_, key, _), data in batch])  # (N, 1 to 3)
            for ((_, key, seed), _), verdict in zip(batch, verdicts, strict=True):
                kind, row = by_id[key]
                table.append({"set": kind, "id": key, "category": row["category"], "seed": seed, "shown": float(verdict[0])})
        return pd.DataFrame(table).sort_values("set", key=lambda kinds: kinds != MAIN, kind="stable")


def llm_parameters(images: Path) -> int:
    """Returns the parameters of the language model that rewrote the prompts of an arm."""
    return json.loads((images / "rewrite/llm.json").read_text(encoding="utf-8"))["parameters"]


def count_pairs() -> int:
    """Counts the pairs of the training split."""
    return len(FeatureStore(FEATURES / "clip").rows_of_split("train"))


def count_sentences(min_logprob: float | None) -> int:
    """Counts the sentences of the training split whose answer is sure enough."""
    split = FeatureSplit([FeatureStore(FEATURES / "sentences")], "train")
    keep_sure_answers(split, min_logprob)
    return len(split)


def _read_json(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))
