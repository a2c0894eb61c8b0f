"""Compares the adapter with what a user could do instead, from the features of a finished `dvc repro`.

    python -m experiments.alternatives [ARM…] [--seeds N] [--prompts FOLDER] [--steps N]

It trains what is missing, draws all arms, and writes alternatives.json and alternatives.md beside this package. A finished training and
finished images are not repeated, so that the command can be stopped and started again; the adapter of `dvc repro` is used if that is up to
date. Files are in data/alternatives. arms.py says what the arms are.
"""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import torch

from experiments.ablations.__main__ import run_command
from experiments.ablations.runs import CommandError, Execute, Processes, Workspace
from experiments.alternatives.arms import ARMS
from experiments.alternatives.runs import Comparison, Trained, check_finished_run, count_pairs, count_sentences, llm_parameters
from experiments.alternatives.table import count_prompts, format_page, summarize
from sur_adapter.config import from_dict
from sur_adapter.generation.prompts import PromptSets, read_prompts
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.text import did_you_mean
from sur_adapter.tools.timing import this_machine

FILE = Path(__file__).parents[1] / "alternatives.json"
GPU = "peak_gpu_mb"


def main(argv: list[str]) -> bool:
    """Returns whether all parts were made. Raises ValueError or FileNotFoundError, one sentence, for bad input."""
    parser = ArgumentParser("python -m experiments.alternatives", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", metavar="ARM", help=f"{', '.join(ARMS)} (default: all)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each arm that has one (default 1)")
    parser.add_argument("--prompts", type=Path, help="file or folder of prompts (default: prompt_sets.test of params.yaml)")
    parser.add_argument("--steps", type=int, help="steps of each training (default: train.steps of params.yaml)")
    args = parser.parse_args(argv)
    for name in args.arms:
        if name not in ARMS:
            raise ValueError(f"there is no arm {name!r}{did_you_mean(name, ARMS)}: name some of {', '.join(ARMS)}")
    if args.seeds < 1 or (args.steps is not None and args.steps < 1):
        raise ValueError(f"--seeds is {args.seeds} and --steps {args.steps}: give at least 1")
    names = [name for name in ARMS if name in (args.arms or ARMS)]
    processes = Processes(torch.get_num_threads(), "experiments.alternatives.command")
    try:
        compare(names, args.seeds, args.prompts, args.steps, processes, FILE)
    except CommandError as error:
        print(error)
        return False
    except BaseException:
        processes.stop()
        raise
    return True


def compare(names: list[str], seeds: int, prompts: Path | None, steps: int | None, execute: Execute, file: Path) -> dict:
    """Makes all parts and writes `file` and the page of its name. Returns the summary."""
    check_finished_run()
    workspace = Workspace()
    params = workspace.params
    sets = from_dict(PromptSets, params.get("prompt_sets"), "prompt_sets")
    if not (prompts or sets.test):
        raise ValueError("params.yaml: prompt_sets.test is missing: name prompts with --prompts")
    comparison = Comparison(workspace, execute, prompts or Path(sets.test), steps)
    read_prompts(comparison.prompts)  # one that cannot be read ends here, and not after the trainings
    arms, judged = {}, {}
    for name in names:
        is_trained = ARMS[name].training is not None
        trained = [comparison.train(name, seed) for seed in range(seeds)] if is_trained else [None]
        drawn = [comparison.draw(name, one, comparison.prompts) for one in trained]
        judged[name] = [comparison.judge(name, images, comparison.prompts) for images, _ in drawn]
        arms[name] = _about(comparison, name, trained) | drawn[0][1]
        if (drawn[0][0] / "rewrite/llm.json").exists():
            arms[name]["llm_parameters"] = llm_parameters(drawn[0][0])
        arms[name]["seconds_per_image"] = arms[name].pop("per_image", None)
        print(f"{name}: {sum(table.shown.mean() for table in judged[name]) / len(drawn):.3f} of all images are right", flush=True)
    summary = {
        "trainings": seeds,
        "steps": comparison.all_steps,
        "batch_size": params["train"]["batch_size"] * params["train"].get("gradient_accumulation_steps", 1),
        "images_per_batch": params["generate"].get("batch_size", 4),
        "machine": _machine(),
        "params": workspace.all_params,
        "development": {"prompts": len(read_prompts(comparison.development_prompts())), "steps": comparison.short_steps},
        "sets": count_prompts(judged),
        "arms": {name: arms[name] | figures for name, figures in summarize(judged).items()},
    }
    atomic_write_text(file, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(file.with_suffix(".md"), format_page(summary))
    return summary


def _about(comparison: Comparison, name: str, trained: list[Trained | None]) -> dict:
    """Returns what the trainings of an arm took and what they read."""
    if trained[0] is None:
        return {}
    first = trained[0]
    train, loss = first.params["train"], first.params["loss"]
    steps = train["steps"] * train.get("gradient_accumulation_steps", 1)
    about = {
        "parameters": first.parameters,
        "seconds": [one.used.get("seconds") for one in trained],
        "feature_seconds": first.feature_seconds,
        "peak_memory_mb": max(one.used.get("peak_memory_mb") or 0 for one in trained) or None,
        "lr": first.lr,
        "rates": {str(rate): share for rate, share in comparison.rates(name).items()},
        "pairs": count_pairs(),
        "sentences": count_sentences(loss["min_logprob"]) if loss["w_llm"] and loss["sentences"] else 0,
        "pairs_seen": steps * train["batch_size"],
        "sentences_seen": steps * loss["sentences"] if loss["w_llm"] else 0,
    }
    gpu = [one.used[GPU] for one in trained if GPU in one.used]
    return about | ({GPU: max(gpu)} if gpu else {})


def _machine() -> str:
    machine = this_machine()
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return f"{machine['cpu']}, {machine['cores']} cores{gpu}"


if __name__ == "__main__":
    run_command(main)
