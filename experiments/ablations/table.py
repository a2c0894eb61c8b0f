"""Makes the table of ablations from DVC experiments: one line per row, with its mean over seeds and its difference from a reference row."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from experiments.ablations.rows import ROWS

FIGURES = {
    "gap": "semantic.gap_closed.value",
    "overall": "semantic.overall.adapter.value",
    "action": "semantic.action.adapter.value",
    "color": "semantic.color.adapter.value",
    "counting": "semantic.counting.adapter.value",
    "on_complex": "semantic.on_complex.value",
    "reasoning": "sets.reasoning.adapter.overall.value",
    "hand_written": "sets.hand_written.adapter.overall.value",
    "regressed": "quality.regressed",
}
SHARES = ("action", "color", "counting", "reasoning", "hand_written")
HEAD = """# Ablations

Written by `python -m experiments.ablations table` from `dvc exp show --json`; the single runs are in `results.csv`. Each line changes one
thing and is the mean over training seeds. `gap`: the share of the gap between plain sentences and keyword prompts that the adapter closes
on the test prompts, ± the half width of a 95 % interval over seeds (Student's t). `difference`: from the default, or from the line that is
named, on the same seeds: mean and 95 % interval, **bold** where the interval excludes 0. Then the share of correct images by category and
on the sets `reasoning` and `hand_written`, and the effect of the adapter on keyword prompts (with − without). All runs have the same test
prompts and noise, so the intervals describe the chance of training only, not the choice of prompts. Missing rows have not run with these
params; results of older defaults are in [before/](before/README.md) and [before_sentences/](before_sentences/README.md).

"""


def collect_results(experiments: dict[str, dict], file: Path) -> pd.DataFrame:
    """Returns row, seed and FIGURES of each finished experiment, added to those that `file` has from earlier runs; updates the file."""
    rows = []
    for name, experiment in experiments.items():
        row, _, seed = name.rpartition("-s")
        metrics = (experiment.get("data") or {}).get("metrics") or {}
        numbers = (metrics.get("reports/metrics.json") or {}).get("data")
        finished = (experiment.get("executor") or {}).get("state") in (None, "success")  # else DVC reports the workspace's figures
        if row in ROWS and seed.isdigit() and numbers and finished and not experiment.get("error"):
            rows.append({"row": row, "seed": int(seed)} | {column: _at(numbers, path) for column, path in FIGURES.items()})
    runs = pd.DataFrame(rows, columns=["row", "seed", *FIGURES])
    if file.exists():
        runs = pd.concat([pd.read_csv(file), runs]) if len(runs) else pd.read_csv(file)
    runs = runs.drop_duplicates(["row", "seed"], keep="last").sort_values(["row", "seed"]).reset_index(drop=True)
    runs.to_csv(file, index=False)
    return runs


def _at(tree: dict, path: str) -> float:
    for key in path.split("."):
        tree = tree.get(key, {}) if isinstance(tree, dict) else {}
    return tree if isinstance(tree, (int, float)) else np.nan


def interval(x: np.ndarray) -> tuple[float, float]:
    """Returns (mean, half width of the 95 % interval by Student's t; NaN for fewer than two values)."""
    x = np.asarray(x, float)
    return x.mean(), t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan


def format_page(runs: pd.DataFrame) -> str:
    """Formats the README: the runs at full length, then all others."""
    full = [name for name in ROWS if "train.steps" not in ROWS[name].shared]
    short = [name for name in ROWS if name not in full]
    shared = ", ".join(f"`{key}={value}`" for key, value in ROWS[short[0]].shared.items())
    parts = [
        f"## At full length\n\n{_table(runs, full)}",
        f"## One change at a time\n\nAll of these with {shared}.\n\n{_table(runs, short)}",
    ]
    return HEAD + "\n\n".join(parts) + "\n"


def _table(runs: pd.DataFrame, names: list[str]) -> str:
    head = ["what", "changed", "seeds", "gap", "difference", "action", "color", "counting", "reasoning", "hand written", "on keywords"]
    lines = [head, ["---"] * len(head)] + [_line(runs, name) for name in names if (runs.row == name).any()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(runs: pd.DataFrame, name: str) -> list[str]:
    by_seed = runs[runs.row == name].set_index("seed")
    mean, half = interval(by_seed.gap)
    changes = "<br>".join(f"`{key}={value}`" for key, value in ROWS[name].changes.items())
    gap = f"{mean:.2f}" + (f" ± {half:.2f}" if np.isfinite(half) else "")
    shares = ["" if by_seed[column].isna().all() else f"{by_seed[column].mean():.3f}" for column in SHARES]
    difference = _difference(runs, by_seed, name)
    return [ROWS[name].label, changes, str(len(by_seed)), gap, difference, *shares, f"{by_seed.on_complex.mean():+.3f}"]


def _difference(runs: pd.DataFrame, by_seed: pd.DataFrame, name: str) -> str:
    reference = ROWS[name].against
    both = by_seed.join(runs[runs.row == reference].set_index("seed").add_suffix("_reference"), how="inner")
    if both.empty:
        return ""
    mean, half = interval(both.gap - both.gap_reference)
    text = f"{mean:+.2f}" + (f" [{mean - half:+.2f}, {mean + half:+.2f}]" if np.isfinite(half) else "")
    text = f"**{text}**" if abs(mean) > half else text
    return text if reference in ("ours", "full") else f"{text} from: {ROWS[reference].label}"
