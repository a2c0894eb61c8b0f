"""Trains the default with several seeds, and measures them on the test prompts: what holds for any training, on any prompts of the kind.

    python -m experiments.seeds 5 [--without-teacher N] [--jobs N]     # writes seeds.json and seeds.md beside this file

It starts from the features of a finished `dvc repro`, whose own training is the first one. The others are runs of the rows `full` and
`full-no-llm` (without the teacher, with the first seeds) of experiments.ablations: a finished one is not repeated. All are measured on
prompt_sets.development, as every run is, and then on prompt_sets.test, which nothing else draws: run this once per release, when all
choices are made.
"""

import json
import os
from argparse import ArgumentParser
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from experiments.ablations.__main__ import HERE, run_command, run_rows
from experiments.ablations.rows import ROWS
from experiments.ablations.runs import Execute, Processes, Run, Workspace
from experiments.ablations.table import Results
from sur_adapter.config import from_dict
from sur_adapter.evaluation.trainings import compare_trainings, summarize_trainings
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.prompts import PromptSets
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.hashing import folder_digest
from sur_adapter.io.shards import read_table

ROW, AGAINST, FOLDER = "full", "full-no-llm", Path(__file__).parent
FIGURES = {  # of summarize_trainings: label
    "difference": "adapter − baseline",
    "gap_closed": "gap closed",
    "against_complex": "adapter − complex",
    "on_complex": "complex + adapter − complex",
    "against_rewrite": "adapter − rewrite",
    "ratio_to_rewrite": "adapter / rewrite",
}
ARMS_IN_SHORT = {"baseline": "plain", "adapter": "+ adapter", "rewrite": "LLM rewrites", "complex": "keyword prompt"}
TEST, DEVELOPMENT = "test", "development"
IN_SHORT = {  # (prompts, set, category): what the sentences are
    (TEST, "main", "overall"): "templates far from all training text",
    (TEST, "combinations", "overall"): "… and combinations never trained on",
    (TEST, "reasoning", "overall"): "an attribute implied by known expressions",
    (TEST, "held_out", "held_out_near"): "… by unknown expressions with a known key word",
    (TEST, "held_out", "held_out_far"): "… by expressions that only the LLM has read",
    (DEVELOPMENT, "main", "overall"): "templates near to training text",
    (DEVELOPMENT, "hand_written", "known_words"): "hand-written, the world's words",
    (DEVELOPMENT, "hand_written", "wild"): "hand-written, free wording",
}
HEAD = """# {trainings} trainings of the default

Written by `python -m experiments.seeds {trainings}`, training seeds {seeds}; the same figures are in `seeds.json`. Shares of right images,
with 95 % intervals over trainings, templates and prompts together ([method](../sur_adapter/evaluation/trainings.py)): what another
training, measured on other templates and prompts of the kind, may give. Hand-written prompts have no template, so each counts for itself.
Arms without the adapter do not depend on the training. n: prompts × images of each. Every setting was chosen on development prompts;
nothing was chosen on test prompts.
"""


def main(argv: list[str]) -> bool:
    """Returns whether all trainings succeeded. Raises ValueError or FileNotFoundError, one sentence, for bad input."""
    parser = ArgumentParser("python -m experiments.seeds", description="Trains the default with several seeds and summarizes them.")
    parser.add_argument("trainings", type=int, help="number of trainings, at least 2; five or more give intervals that can be used")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side; the cores are divided among them (default 1)")
    parser.add_argument("--without-teacher", type=int, help="trainings with loss.w_llm 0 to compare with (default 3 at most); 0: none")
    args = parser.parse_args(argv)
    if args.trainings < 2 or args.jobs < 1:
        raise ValueError(f"{args.trainings} trainings, --jobs {args.jobs}: give at least 2 trainings and 1 job")
    without = min(3, args.trainings) if args.without_teacher is None else args.without_teacher
    if without not in (0, *range(2, args.trainings + 1)):
        raise ValueError(f"--without-teacher is {without}: give 0, or from 2 to the number of trainings, {args.trainings}")
    rows = {ROW: replace(ROWS[ROW], seeds=args.trainings)}
    rows |= {AGAINST: replace(ROWS[AGAINST], seeds=without)} if without else {}
    results = Results(HERE / "results.csv", HERE / "README.md")
    execute = Processes(max(1, (os.cpu_count() or 1) // args.jobs))
    if not run_rows(rows, results, execute, args.jobs):
        return False
    workspace = Workspace()
    runs = {name: [Run(name, row, seed, workspace) for seed in range(row.seeds)] for name, row in rows.items()}
    summary = summarize(runs, {name: measure(of_row, execute, args.jobs) for name, of_row in runs.items()})
    atomic_write_text(FOLDER / "seeds.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(FOLDER / "seeds.md", format_page(summary))
    print(format_page(summary))
    return True


def measure(runs: list[Run], execute: Execute, jobs: int) -> dict[str, list[Path]]:
    """Measures finished runs on the test and development prompts, `jobs` runs at a time. Returns the folders of judgements.parquet.

    Raises FileNotFoundError for a run that was made elsewhere, ValueError if params.yaml names no such prompts, CommandError.
    """
    for run in runs:
        if not (file := run.reports / "judgements.parquet").exists():
            results = HERE / "results.csv"
            raise FileNotFoundError(f"{file} is missing: seed {run.seed} ran elsewhere; remove its line of {results} and start again")
    sets = from_dict(PromptSets, runs[0].workspace.params.get("prompt_sets"), "prompt_sets")
    drawn = sets.role(runs[0].workspace.params["generate"]["prompts"])
    folders = {}
    for name, prompts in ((TEST, sets.test), (DEVELOPMENT, sets.development)):
        if not prompts:
            raise ValueError(f"params.yaml: prompt_sets.{name} is missing: name the file or folder of these prompts")
        if name == drawn:
            folders[name] = [run.reports for run in runs]
        else:
            with ThreadPoolExecutor(jobs) as pool:
                folders[name] = list(pool.map(partial(Run.measure_on, prompts=prompts, execute=execute), runs))
    return folders


def summarize(runs: dict[str, list[Run]], folders: dict[str, dict[str, list[Path]]]) -> dict:
    """Summarizes the judgements in the folders of `measure`. runs, folders: by row."""
    ours, others = runs[ROW], runs.get(AGAINST, [])
    tables = {row: {name: _judgements(of) for name, of in by_name.items()} for row, by_name in folders.items()}
    about = {"trainings": len(ours), "seeds": [run.seed for run in ours], "params": ours[0].workspace.all_params}
    about |= {"adapters": [folder_digest(run.adapter, "*.safetensors") for run in ours]}
    sets = {name: summarize_trainings(of) for name, of in tables[ROW].items()}
    if not others:
        return about | {"sets": sets}
    teacher = {name: compare_trainings(of[: len(others)], tables[AGAINST][name]) for name, of in tables[ROW].items()}
    return about | {"sets": sets, "teacher": {"trainings": len(others), "sets": teacher}}


def _judgements(folders: list[Path]) -> list[pd.DataFrame]:
    return [read_table(folder / "judgements.parquet") for folder in folders]


def format_page(summary: dict) -> str:
    """Formats the summary as Markdown, a table for each set."""
    parts = [HEAD.format(trainings=summary["trainings"], seeds=", ".join(map(str, summary["seeds"]))), format_short_table(summary) + "\n"]
    for role, name, block in ((role, name, block) for role, sets in summary["sets"].items() for name, block in sets.items()):
        groups = list(block["accuracy"]["adapter"])
        rows = [["arm", *groups], ["---"] * (len(groups) + 1)]
        rows += [[f"`{arm}`", *(_share(block["accuracy"][arm][group]) for group in groups)] for arm in ARMS if arm in block["accuracy"]]
        figures = "; ".join(f"{label} {_signed(block[key], key)}" for key, label in FIGURES.items() if key in block)
        table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        n = f"n = {block['prompts']} × {block['seeds']}" + (f", {block['templates']} templates" if "templates" in block else "")
        parts.append(f"## {role}: {name} ({n})\n\n{table}\n\n{figures[0].upper()}{figures[1:]}.\n")
    return "\n".join(parts + ([_format_teacher(summary["teacher"])] if "teacher" in summary else []))


def _format_teacher(teacher: dict) -> str:
    """Formats what the teacher adds: a line for each category of each set."""
    rows = [["prompts", "set", "category", "with − without teacher"], ["---"] * 4]
    rows += [
        [role, name, category, _signed(interval, "")]
        for role, sets in teacher["sets"].items()
        for name, block in sets.items()
        for category, interval in block["difference"].items()
    ]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    text = f"Accuracy of the arm `adapter`, against {teacher['trainings']} trainings with `loss.w_llm: 0` and the same seeds."
    return f"## What the teacher adds\n\n{text}\n\n{table}\n"


def format_short_table(summary: dict) -> str:
    """Formats one line for each of IN_SHORT, the table of the project's README."""
    rows = [["prompts", "sentences", "n", *ARMS_IN_SHORT.values()]]
    rows.append(["---"] * len(rows[0]))
    for (role, name, category), label in IN_SHORT.items():
        if block := summary["sets"].get(role, {}).get(name):
            share, n = block["accuracy"], block["counts"][category]
            rows.append([role, label, f"{n} × {block['seeds']}", *(_share(share[arm][category], 2) for arm in ARMS_IN_SHORT)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _share(interval: dict[str, float], digits: int = 3) -> str:
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(interval[name] for name in ("value", "low", "high")), d=digits)


def _signed(interval: dict[str, float], key: str) -> str:
    form = "{:.2f}" if key in ("gap_closed", "ratio_to_rewrite") else "{:+.3f}"
    value, low, high = (form.format(interval[name]).replace("-", "−") for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    run_command(main)
