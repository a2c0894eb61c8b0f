"""Measures the gap between plain sentences and keyword prompts, and how much of it an adapter closes, by what CLIP has read.

    python -m experiments.plain_text_share [--shares 0.02 0.1 0.5] [--jobs N]

It writes plain_text_share.json, .md and .svg beside this file. For each share of plain sentences among its texts, a CLIP is trained as in
miniature/params.yaml; the committed U-Net is trained further behind it, with the committed VAE; then the adapter is trained on new
features, and its arms are judged on prompt_sets.development. Pairs, images, sentences and the LLM's answers are those of a finished
`dvc repro` in this folder. Every finished part is in data/plain_text_share and is not repeated, so that the command can be stopped and
started again; remove that folder after a change of the code.
"""

import json
import os
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from experiments.ablations.__main__ import run_command
from experiments.ablations.runs import (
    FUNNEL,
    PAIRS,
    SENTENCES,
    WITH,
    WITHOUT,
    CommandError,
    Execute,
    Processes,
    digest,
    once,
    option_words,
    prompts_digest,
    write_params,
)
from experiments.plain_text_share_page import format_chart, format_page
from sur_adapter.config import from_dict
from sur_adapter.data.sentence_selection.selection import SENTENCES_SCHEMA
from sur_adapter.evaluation.prompt_sets import categories_of
from sur_adapter.evaluation.summary import by_prompt, clusters_of
from sur_adapter.evaluation.trainings import mean_over_trainings, summarize_trainings
from sur_adapter.generation.prompts import PromptSets
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.hashing import file_digest, folder_digest
from sur_adapter.io.shards import read_table, write_table

HERE = Path(__file__).parent
FOLDER, RAW, ANSWERS = Path("data/plain_text_share"), Path("data/raw"), Path("data/features/sentences/answers.parquet")
START = Path("models/miniature/stable-diffusion")  # the VAE, and the U-Net that training starts from
SHARES, DIFFUSION_STEPS = (0.02, 0.1, 0.5), 2000
FEATURES = ("clip", "llm", "vae", "queries", "sentences")
OF_ANSWERS = ("answer", "mean_logprob", "min_logprob")


def main(argv: list[str]) -> bool:
    """Returns whether all shares succeeded. Raises ValueError or FileNotFoundError, one sentence, for bad input."""
    parser = ArgumentParser("python -m experiments.plain_text_share", description="Measures the gap by the plain text that CLIP has read.")
    help_text = "of plain sentences among CLIP's texts (default 0.02 0.1 0.5)"
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help=help_text)
    parser.add_argument("--jobs", type=int, default=1, help="shares side by side; the cores are divided among them (default 1)")
    parser.add_argument("--clip-steps", type=int, help="of each CLIP (default: as in miniature/params.yaml)")
    parser.add_argument("--diffusion-steps", type=int, default=DIFFUSION_STEPS, help="of each U-Net (default %(default)s)")
    parser.add_argument("--train-steps", type=int, help="of each adapter (default: as in params.yaml)")
    args = parser.parse_args(argv)
    threads = max(1, (os.cpu_count() or 1) // max(args.jobs, 1))
    study = Study.read(args, Processes(threads), Processes(threads, "miniature.pretrain"))
    figures = measure(study, sorted(set(args.shares)), args.jobs)
    if figures is None:
        return False
    write_results(figures, HERE)
    print(format_page(figures))
    return True


def write_results(figures: dict, folder: Path) -> None:
    """Writes plain_text_share.json, and the page and the chart that are made of it."""
    texts = {"json": json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "md": format_page(figures), "svg": format_chart(figures)}
    for suffix, text in texts.items():
        atomic_write_text(folder / f"plain_text_share.{suffix}", text)


def measure(study: "Study", shares: list[float], jobs: int) -> dict | None:
    """Trains and measures all shares, `jobs` at a time. Returns the figures; None if a command failed, whose last lines are printed."""
    figures = {}
    with ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(study.figures, share): share for share in shares}
        try:
            for future in as_completed(started):
                share, error = started[future], future.exception()
                if error and not isinstance(error, CommandError):
                    raise error
                if not error:
                    figures[share] = future.result()
                print(f"{100 * share:g} % plain sentences: {f'failed: {error}' if error else 'finished'}", flush=True)
        except BaseException:
            for execute in (study.stages, study.pretrain):
                if isinstance(execute, Processes):
                    execute.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {"settings": study.settings, "shares": [figures[share] for share in shares]} if len(figures) == len(shares) else None


@dataclass(frozen=True)
class Study:
    """What all shares have in common.

    recipe: of miniature/params.yaml, and params: of params.yaml, both with the steps of the command line. data: digest of the pairs, the
    sentences and the LLM's answers. stages, pretrain: run the commands of the stages and those of miniature.pretrain.
    """

    recipe: dict
    params: dict
    data: str
    stages: Execute
    pretrain: Execute

    @classmethod
    def read(cls, args: Namespace, stages: Execute, pretrain: Execute) -> "Study":
        """Reads the params and the finished run of this folder.

        Raises ValueError for arguments that cannot be, FileNotFoundError if there is no finished run.
        """
        recipe, params = (YAML(typ="safe").load(file) for file in (Path("miniature/params.yaml"), Path("params.yaml")))
        for path in (PAIRS, RAW, SENTENCES, ANSWERS):
            if not path.exists():
                raise FileNotFoundError(f"{path} is missing: run `dvc repro` first; the shares start from its pairs, sentences and answers")
        clip, diffusion = recipe["clip"], {key: value for key, value in recipe["diffusion"].items() if key != "again"}
        given = {"clip": args.clip_steps, "diffusion": args.diffusion_steps, "train": args.train_steps}
        parts = {"clip": clip, "diffusion": diffusion, "train": params["train"]}
        parts = {name: part | ({"steps": given[name]} if given[name] is not None else {}) for name, part in parts.items()}
        steps = [part["steps"] for part in parts.values()]
        if min(args.jobs, *steps) < 1:
            raise ValueError(f"--jobs is {args.jobs} and the steps are {', '.join(map(str, steps))}: give at least 1")
        most = 1 - clip["shares"]["broad"]
        if wrong := [share for share in args.shares if not 0 <= share <= most]:
            raise ValueError(f"--shares has {wrong[0]:g}: give shares from 0 to {most:g}; the rest is broad language")
        prompts = from_dict(PromptSets, params.get("prompt_sets"), "prompt_sets").development
        if not prompts:
            raise ValueError("params.yaml: prompt_sets.development is missing: name the file or folder of these prompts")
        recipe |= {name: parts[name] for name in ("clip", "diffusion")}
        params |= {"train": parts["train"], "executor": {"kind": "inline"}}
        params |= {"generate": params["generate"] | {"prompts": prompts}, "evaluate": params["evaluate"] | {"clip": None}}
        return cls(recipe, params, digest([file_digest(file) for file in (PAIRS, SENTENCES, ANSWERS)]), stages, pretrain)

    @property
    def settings(self) -> dict:
        """What the page says of the settings."""
        clip, diffusion, train = self.recipe["clip"], self.recipe["diffusion"], self.params["train"]
        parts = {"clip": clip, "unet": diffusion, "adapter": train}
        about = {name: {key: part[key] for key in ("steps", "seed")} for name, part in parts.items()}
        return about | {
            "broad": clip["shares"]["broad"],
            "default": clip["shares"]["simple"],
            "prompts": self.params["generate"]["prompts"],
        }

    def world(self, name: str) -> Path:
        """Draws the scenes of a section of the recipe."""

        def compute(folder: Path) -> None:
            self.pretrain(["world", name, str(folder / "world")], write_params(folder, self.recipe), folder / "log.txt")

        return _part(name, [self.recipe[name]], compute) / "world"

    def clip(self, share: float) -> Path:
        """Trains the CLIP that has read this share of plain sentences."""
        shares = self.recipe["clip"]["shares"]
        texts = {"complex": round(1 - share - shares["broad"], 6), "simple": share, "broad": shares["broad"]}
        recipe = self.recipe | {"clip": self.recipe["clip"] | {"shares": texts}}

        def compute(folder: Path) -> None:
            with _checkpoint(folder) as checkpoint:
                paths = [self.world("scattered"), checkpoint, folder / "clip"]
                self.pretrain(["clip", "clip", *map(str, paths)], write_params(folder, recipe), folder / "log.txt")

        return _part(f"clip-{share:g}", [recipe["scattered"], recipe["clip"]], compute) / "clip"

    def stable_diffusion(self, share: float) -> Path:
        """Trains the committed U-Net further, behind the CLIP of this share."""
        clip = self.clip(share)

        def compute(folder: Path) -> None:
            out = folder / "stable-diffusion"
            with _checkpoint(folder) as checkpoint:
                paths = [self.world("arranged"), START / "vae", clip, checkpoint, out, START / "unet"]
                self.pretrain(["diffusion", *map(str, paths)], write_params(folder, self.recipe), folder / "log.txt")
            shutil.copytree(START / "vae", out / "vae")

        inputs = [str(clip), self.recipe["arranged"], self.recipe["diffusion"], folder_digest(START, "*.safetensors")]
        return _part(f"diffusion-{share:g}", inputs, compute) / "stable-diffusion"

    def sentences(self) -> Path:
        """Writes the table of the sentences with the answers of the LLM, which do not depend on CLIP."""

        def compute(folder: Path) -> None:
            write_table(folder / "sentences.parquet", with_answers(read_table(SENTENCES), read_table(ANSWERS)), SENTENCES_SCHEMA)

        return _part("sentences", [self.data], compute) / "sentences.parquet"

    def features(self, share: float) -> dict[str, Path]:
        """Computes the features that training reads. Returns the folder of each of FEATURES."""
        params = self._params(share)

        def compute(folder: Path, name: str) -> None:
            given = {"sentences": self.sentences()} if name == "sentences" else {"pairs": PAIRS, "raw": RAW}
            options = {"features": name} | given | {"out": folder / name}
            self.stages(["cache", *option_words(options)], write_params(folder, params), folder / "log.txt")

        inputs = [self.data, *(params[section] for section in ("models", "cache", "loss"))]
        return {name: _part(f"features-{name}-{share:g}", inputs, partial(compute, name=name)) / name for name in FEATURES}

    def train(self, share: float) -> Path:
        """Trains the adapter. Returns the folder of `adapter` and `train`, its history."""
        params, features = self._params(share), self.features(share)

        def compute(folder: Path) -> None:
            options = features | {"out": folder / "adapter", "reports": folder / "train"}
            self.stages(["train", *option_words(options)], write_params(folder, params), folder / "log.txt")

        inputs = [*map(str, features.values()), *(params[section] for section in ("adapter", "train"))]
        return _part(f"adapter-{share:g}", inputs, compute)

    def judge(self, share: float) -> Path:
        """Draws all arms and judges them. Returns the folder of metrics.json and judgements.parquet."""
        params, trained = self._params(share), self.train(share)

        def compute(folder: Path) -> None:
            file, log, adapter = write_params(folder, params), folder / "log.txt", {"adapter": trained / "adapter"}
            given = {"prompts": params["generate"]["prompts"]}
            drawn = given | {"out": folder / "images"}
            self.stages(["generate", "--arms", *WITHOUT, *option_words(drawn)], file, log)
            self.stages(["generate", "--arms", *WITH, *option_words(drawn | adapter)], file, log)
            read = given | {"images": folder / "images", "funnel": FUNNEL, "history": trained / "train/history.json"} | adapter
            self.stages(["evaluate", *option_words(read | {"out-dir": folder / "reports"})], file, log)

        inputs = [str(trained), prompts_digest(params), params["generate"], params["evaluate"]]
        return _part(f"judged-{share:g}", inputs, compute) / "reports"

    def figures(self, share: float) -> dict:
        """Does what is missing. Returns the share, how CLIP and U-Net were trained, and the summary of each set of prompts with its gap."""
        judgements = read_table(self.judge(share) / "judgements.parquet")
        sets = summarize_trainings([judgements])
        for name, block in sets.items():
            block["gap"] = gap(judgements[judgements["set"] == name])
        models = {"clip": self.clip(share), "unet": self.stable_diffusion(share) / "unet"}
        trained = {name: json.loads((folder / "training.json").read_text(encoding="utf-8")) for name, folder in models.items()}
        return {"share": share} | trained | {"sets": sets}

    def _params(self, share: float) -> dict:
        """Returns the params with the diffusion model of a share."""
        return self.params | {"models": self.params["models"] | {"diffusion": str(self.stable_diffusion(share))}}


def with_answers(sentences: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Gives the sentences the answers of an earlier run as ready ones; a sentence without a usable answer is dropped.

    sentences: of the stage `sentences`. answers: answers.parquet of its features. Raises ValueError if they are of other sentences.
    """
    own = answers[["id", *OF_ANSWERS, "reason"]].rename(columns={"reason": "unusable"})
    table = sentences.drop(columns=list(OF_ANSWERS)).merge(own, on="id", how="left")
    unusable = table["keep"] & table["unusable"].notna()
    table["reason"] = table["reason"].astype(object).mask(unusable, "no_answer")
    table["keep"] &= ~unusable
    if table.loc[table["keep"], "answer"].isna().any():
        raise ValueError(f"{ANSWERS} has no answers to some sentences of {SENTENCES}: run `dvc repro`")
    return table[SENTENCES_SCHEMA.names]


def gap(judgements: pd.DataFrame) -> dict[str, float]:
    """Returns complex − baseline of one set with its interval over templates and prompts."""
    categories = categories_of(judgements)
    rates = by_prompt(judgements, "shown", categories)
    difference = (rates["complex"] - rates["baseline"]).to_numpy()[None]  # (1, N)
    values = mean_over_trainings(difference, categories.to_numpy(), clusters_of(judgements, categories.index))
    return {name: round(value, 4) for name, value in zip(("value", "low", "high"), map(float, values), strict=True)}


@contextmanager
def _checkpoint(folder: Path) -> Iterator[Path]:
    """Yields the file beside a folder from which a stopped training goes on; removes it when the block ends without an error."""
    file = folder.with_name(f"{folder.name}.pt")
    yield file
    file.unlink(missing_ok=True)


def _part(name: str, inputs: list, compute: Callable[[Path], None]) -> Path:
    return once(FOLDER / f"{name}-{digest(inputs)}", compute)


if __name__ == "__main__":
    run_command(main)
