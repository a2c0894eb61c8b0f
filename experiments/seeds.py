"""Trains the default with several seeds, and summarizes them: what holds for any training, on any prompts of the kind.

    python -m experiments.seeds 5 [--jobs N]     # writes seeds.json and seeds.md beside this file

It starts from the features of a finished `dvc repro`, whose own training is the first one. The others are runs of the row `full` of
experiments.ablations: a finished one is not repeated.
"""

import json
import os
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

from experiments.ablations.__main__ import HERE, run_command, run_rows
from experiments.ablations.rows import ROWS
from experiments.ablations.runs import Processes, Run, Workspace
from experiments.ablations.table import Results
from sur_adapter.evaluation.trainings import summarize_trainings
from sur_adapter.generation.arms import ARMS
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.shards import read_table

ROW, FOLDER = "full", Path(__file__).parent
FIGURES = {  # of summarize_trainings: label
    "difference": "adapter − baseline",
    "gap_closed": "gap closed",
    "against_complex": "adapter − complex",
    "on_complex": "complex + adapter − complex",
    "against_rewrite": "adapter − rewrite",
    "ratio_to_rewrite": "adapter / rewrite",
}
ARMS_IN_SHORT = {"baseline": "plain", "adapter": "+ adapter", "rewrite": "LLM rewrites", "complex": "keyword prompt"}
IN_SHORT = {  # (set, category): what the sentences are, and whether settings were chosen on them
    ("main", "overall"): ("sentences of unseen templates", "no"),
    ("reasoning", "overall"): ("an attribute implied by known expressions", "no"),
    ("held_out", "held_out_near"): ("… by unknown expressions with a known key word", "no"),
    ("held_out", "held_out_far"): ("… by expressions that only the LLM has read", "no"),
    ("hand_written", "known_words"): ("hand-written, the world's words", "yes"),
    ("hand_written", "wild"): ("hand-written, free wording", "yes"),
}
HEAD = """# {trainings} trainings of the default

Written by `python -m experiments.seeds {trainings}`, training seeds {seeds}; the same figures are in `seeds.json`. Shares of right images,
with 95 % intervals over trainings and prompts together ([method](../sur_adapter/evaluation/trainings.py)): what another training, measured
on other prompts of the kind, may give. Arms without the adapter do not depend on the training. n: prompts × images of each.
"""


def main(argv: list[str]) -> bool:
    """Returns whether all trainings succeeded. Raises ValueError or FileNotFoundError, one sentence, for bad input."""
    parser = ArgumentParser("python -m experiments.seeds", description="Trains the default with several seeds and summarizes them.")
    parser.add_argument("trainings", type=int, help="number of trainings, at least 2; five or more give intervals that can be used")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side; the cores are divided among them (default 1)")
    args = parser.parse_args(argv)
    if args.trainings < 2 or args.jobs < 1:
        raise ValueError(f"{args.trainings} trainings, --jobs {args.jobs}: give at least 2 trainings and 1 job")
    row = replace(ROWS[ROW], seeds=args.trainings)
    results = Results(HERE / "results.csv", HERE / "README.md")
    if not run_rows({ROW: row}, results, Processes(max(1, (os.cpu_count() or 1) // args.jobs)), args.jobs):
        return False
    summary = summarize([Run(ROW, row, seed, workspace) for workspace in [Workspace()] for seed in range(args.trainings)])
    atomic_write_text(FOLDER / "seeds.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(FOLDER / "seeds.md", format_page(summary))
    print(format_page(summary))
    return True


def summarize(runs: list[Run]) -> dict:
    """Reads the judgements of finished runs. Raises FileNotFoundError for one that ran elsewhere."""
    files = [run.reports / "judgements.parquet" for run in runs]
    for run, file in zip(runs, files, strict=True):
        if not file.exists():
            results = HERE / "results.csv"
            raise FileNotFoundError(f"{file} is missing: seed {run.seed} ran elsewhere; remove its line of {results} and start again")
    sets = summarize_trainings([read_table(file) for file in files])
    return {"trainings": len(runs), "seeds": [run.seed for run in runs], "params": runs[0].workspace.all_params, "sets": sets}


def format_page(summary: dict) -> str:
    """Formats the summary as Markdown, a table for each set."""
    parts = [HEAD.format(trainings=summary["trainings"], seeds=", ".join(map(str, summary["seeds"]))), format_short_table(summary) + "\n"]
    for name, block in summary["sets"].items():
        groups = list(block["accuracy"]["adapter"])
        rows = [["arm", *groups], ["---"] * (len(groups) + 1)]
        rows += [[f"`{arm}`", *(_share(block["accuracy"][arm][group]) for group in groups)] for arm in ARMS if arm in block["accuracy"]]
        figures = "; ".join(f"{label} {_signed(block[key], key)}" for key, label in FIGURES.items() if key in block)
        table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        parts.append(f"## {name} (n = {block['prompts']} × {block['seeds']})\n\n{table}\n\n{figures[0].upper()}{figures[1:]}.\n")
    return "\n".join(parts)


def format_short_table(summary: dict) -> str:
    """Formats one line for each of IN_SHORT, the table of the project's README."""
    rows = [["sentences", "n", *ARMS_IN_SHORT.values(), "chose settings"]]
    rows.append(["---"] * len(rows[0]))
    for (name, category), (label, chosen) in IN_SHORT.items():
        if block := summary["sets"].get(name):
            share = block["accuracy"]
            n = block["counts"][category]
            rows.append([label, f"{n} × {block['seeds']}", *(_share(share[arm][category], 2) for arm in ARMS_IN_SHORT), chosen])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _share(interval: dict[str, float], digits: int = 3) -> str:
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(interval[name] for name in ("value", "low", "high")), d=digits)


def _signed(interval: dict[str, float], key: str) -> str:
    form = "{:.2f}" if key in ("gap_closed", "ratio_to_rewrite") else "{:+.3f}"
    value, low, high = (form.format(interval[name]).replace("-", "−") for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    run_command(main)
