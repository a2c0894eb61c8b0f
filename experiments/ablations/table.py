"""Keeps the results of the runs and makes their table: one line per row, with its mean over seeds and its difference from another row."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from scipy.stats import t

from experiments.ablations.rows import ROWS
from experiments.ablations.runs import FOLDER
from sur_adapter.io.atomic import atomic_write_text

FIGURES = {
    "gap": "semantic.gap_closed.value",
    "overall": "semantic.overall.adapter.value",
    "action": "semantic.action.adapter.value",
    "color": "semantic.color.adapter.value",
    "counting": "semantic.counting.adapter.value",
    "on_complex": "semantic.on_complex.value",
    "reasoning": "sets.reasoning.adapter.overall.value",
    "reasoning_colour": "sets.reasoning.adapter.reasoning_colour.value",
    "reasoning_number": "sets.reasoning.adapter.reasoning_number.value",
    "reasoning_pose": "sets.reasoning.adapter.reasoning_pose.value",
    "hand_written": "sets.hand_written.adapter.overall.value",
    "known_words": "sets.hand_written.adapter.known_words.value",
    "wild": "sets.hand_written.adapter.wild.value",
    "regressed": "quality.regressed",
    "loss_of_pairs": "training.validation_loss",
    "loss_of_text": "training.validation_llm",
}
ABOUT = ("seconds", "finished", "params", "base", "settings", "code")
# duration, end (UTC); digests: params without the row's changes, these and the features, with the row's changes, the code
SHARES = (
    "reasoning_colour", "reasoning_number", "reasoning_pose", "known_words", "wild", "action", "color", "counting",
)  # fmt: skip
COLUMNS = ("what", "changed", "seeds", "gap", "difference", "reasoning", "difference", "colour", "number", "pose",
           "hand written, known words", "wild", "action", "color", "counting", "on keywords", "loss of pairs", "of sentences")  # fmt: skip
HEAD = """# Ablations

Written by `python -m experiments.ablations run`; the single runs are in `results.csv`. Each line changes one thing and is the mean over
training seeds. `gap`: the share of the gap between plain sentences and keyword prompts that the adapter closes, ± the half width of a 95 %
interval over seeds (Student's t). `reasoning`: the share of correct images of sentences that imply an attribute, which the teacher is for;
by what they imply in `colour`, `number` and `pose`. Each `difference`: of the column before it, from the default or from the line that is
named, on the same seeds: mean and 95 % interval, **bold** where the interval excludes 0. Then the share of correct images of the
hand-written sentences and of each category of plain ones, and the effect of the adapter on keyword prompts (with − without). Last the
validation losses of pairs and of sentences, which vary less than shares of images do, but compare only rows with the same target and
sentences. All prompts are development prompts, and all runs have the same noise, so the intervals describe the chance of training only, not
the choice of prompts. All runs of a table start from the same features. Missing rows have not run with these params; results of older
defaults are in [before_test_grammar/](before_test_grammar/README.md), [before_three_captions/](before_three_captions/README.md),
[before_sentences/](before_sentences/README.md) and [before/](before/README.md).

"""
FULL = "## At full length\n\nTrained with the steps of params.yaml and measured on all development prompts."
ONE_CHANGE = """## One change at a time

Measured on the first 40 development prompts of each category. All of these with
"""


class Results:
    """results.csv, which several processes may extend, and the page made of it."""

    def __init__(self, file: Path, page: Path):
        self.file, self.page = file, page
        self.lock = FOLDER / "results.lock"

    def read(self) -> pd.DataFrame:
        """Returns row, seed, FIGURES and ABOUT of each run."""
        if not self.file.exists():
            return pd.DataFrame(columns=["row", "seed", *FIGURES, *ABOUT])
        return pd.read_csv(self.file, dtype=dict.fromkeys(("params", "base", "settings", "code"), str))

    def has(self, row: str, seed: int, settings: str, code: str | None = None) -> bool:
        """Tells whether a run with these settings is finished. code: digest of the code; None: of any code."""
        runs = self.read()
        same = (runs.row == row) & (runs.seed == seed) & (runs.settings == settings)
        return bool((same & (runs.code == code) if code else same).any())

    def add(self, row: str, seed: int, metrics: dict, about: dict) -> float:
        """Adds the figures of a run, in place of those of an earlier one, and writes the page. Returns the closed gap."""
        line = {"row": row, "seed": seed} | {column: _at(metrics, path) for column, path in FIGURES.items()} | about
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.lock):
            runs = self.read()
            runs = pd.concat([runs[(runs.row != row) | (runs.seed != seed)], pd.DataFrame([line])]) if len(runs) else pd.DataFrame([line])
            runs = runs.sort_values(["row", "seed"])[["row", "seed", *FIGURES, *ABOUT]]
            atomic_write_text(self.file, runs.to_csv(index=False, lineterminator="\n"))
            self.write_page()
        return line["gap"]

    def write_page(self) -> None:
        atomic_write_text(self.page, format_page(self.read()))


def _at(tree: dict, path: str) -> float:
    for key in path.split("."):
        tree = tree.get(key, {}) if isinstance(tree, dict) else {}
    return tree if isinstance(tree, (int, float)) else np.nan


def interval(x: np.ndarray) -> tuple[float, float]:
    """Returns (mean, half width of the 95 % interval by Student's t; NaN for fewer than two values)."""
    x = np.asarray(x, float)
    return x.mean(), t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan


def format_page(runs: pd.DataFrame) -> str:
    """Formats the README: the runs at full length, then all others.

    Only runs with the params of the last one count, and in each of the two tables only runs from the same features as its last one: another
    machine rounds the features differently, or their code has changed.
    """
    runs = _as_the_last(runs[runs.row.isin(list(ROWS))], "params")
    full = [name for name in ROWS if "train.steps" not in ROWS[name].shared]
    short = [name for name in ROWS if name not in full]
    shared = ", ".join(f"`{key}={json.dumps(value)}`" for key, value in ROWS[short[0]].shared.items())
    return HEAD + "\n\n".join([_section(FULL, runs, full), _section(f"{ONE_CHANGE}{shared}.", runs, short)]) + "\n"


def _as_the_last(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Returns the runs that have the same value in this column as the run that finished last."""
    return runs[runs[column] == runs.sort_values("finished")[column].iloc[-1]] if len(runs) else runs


def _section(text: str, runs: pd.DataFrame, names: list[str]) -> str:
    runs = _as_the_last(runs[runs.row.isin(names)], "base")
    if len(runs):
        minutes, measured = runs.seconds.median() / 60, runs.seconds.count()
        text += f"\nA run, from the training to the figures, took {minutes:.1f} minutes (median of {measured})."
        if (versions := runs.code.nunique()) > 1:
            text += f" The runs are of {versions} versions of the code."
    lines = [COLUMNS, ["---"] * len(COLUMNS)] + [_line(runs, name) for name in names if (runs.row == name).any()]
    return text + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(runs: pd.DataFrame, name: str) -> list[str]:
    by_seed = runs[runs.row == name].set_index("seed")
    changes = "<br>".join(f"`{key}={json.dumps(value)}`" for key, value in ROWS[name].changes.items())
    figures = []
    for column, digits in (("gap", 2), ("reasoning", 3)):
        mean, half = interval(by_seed[column])
        figures.append(f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if np.isfinite(half) else "") if np.isfinite(mean) else "")
        figures.append(_difference(runs, by_seed, name, column, digits))
    shares = ["" if by_seed[column].isna().all() else f"{by_seed[column].mean():.3f}" for column in SHARES]
    losses = ["" if by_seed[column].isna().all() else f"{by_seed[column].mean():.4f}" for column in ("loss_of_pairs", "loss_of_text")]
    return [ROWS[name].label, changes, str(len(by_seed)), *figures, *shares, f"{by_seed.on_complex.mean():+.3f}", *losses]


def _difference(runs: pd.DataFrame, by_seed: pd.DataFrame, name: str, column: str, digits: int) -> str:
    reference = ROWS[name].against
    both = by_seed.join(runs[runs.row == reference].set_index("seed").add_suffix("_reference"), how="inner")
    differences = (both[column] - both[f"{column}_reference"]).dropna()
    if differences.empty:
        return ""
    mean, half = interval(differences)
    text = f"{mean:+.{digits}f}" + (f" [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]" if np.isfinite(half) else "")
    text = f"**{text}**" if abs(mean) > half else text
    return text if reference in ("ours", "full") else f"{text} from: {ROWS[reference].label}"
