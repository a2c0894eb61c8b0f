"""From experiments to a table: a line for each row, its mean over seeds and the interval of its difference from its counterpart."""

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
    "regressed": "quality.regressed",
}
HEAD = """# What helps, measured

Written by `python -m experiments.ablations table` from `dvc exp show --json`; the single runs are in `results.csv`. Each line changes one
thing, and is the mean over training seeds. `gap`: the share of the gap between plain sentences and keyword prompts that the adapter closes
on the test prompts, give or take the half width of a 95 % interval over seeds (Student's t). `difference`: from ours, or from the line that
is named, on the same seeds: its mean and 95 % interval, **bold** where that leaves out 0. Then the share of right pictures by category, and
what the adapter does to keyword prompts (with − without). Test prompts and noise are the same in all runs: intervals tell of the chance of
training alone, not of the choice of prompts. Rows that are missing have not run with these params: what an older default gave stands in
[before/](before/README.md).

"""


def results(experiments: dict[str, dict], file: Path) -> pd.DataFrame:
    """row, seed and FIGURES of each experiment that has run to its metrics, together with what the file holds from earlier sittings; they
    are written to it."""
    rows = []
    for name, told in experiments.items():
        row, _, seed = name.rpartition("-s")
        metrics = (told.get("data") or {}).get("metrics") or {}
        numbers = (metrics.get("reports/metrics.json") or {}).get("data")
        ran = (told.get("executor") or {}).get("state") in (None, "success")  # else DVC tells the workspace's figures, as of what failed
        if row in ROWS and seed.isdigit() and numbers and ran and not told.get("error"):
            rows.append({"row": row, "seed": int(seed)} | {column: _at(numbers, path) for column, path in FIGURES.items()})
    found = pd.DataFrame(rows, columns=["row", "seed", *FIGURES])
    if file.exists():
        found = pd.concat([pd.read_csv(file), found]) if len(found) else pd.read_csv(file)
    found = found.drop_duplicates(["row", "seed"], keep="last").sort_values(["row", "seed"]).reset_index(drop=True)
    found.to_csv(file, index=False)
    return found


def _at(tree: dict, path: str) -> float:
    for key in path.split("."):
        tree = tree.get(key, {}) if isinstance(tree, dict) else {}
    return tree if isinstance(tree, (int, float)) else np.nan


def interval(x: np.ndarray) -> tuple[float, float]:
    """(mean, half width of the 95 % interval by Student's t; NaN for fewer than two)."""
    x = np.asarray(x, float)
    return x.mean(), t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan


def page(found: pd.DataFrame) -> str:
    """The README: the runs at full length, then all others."""
    full = [name for name in ROWS if "train.steps" not in ROWS[name].shared]
    rest = [name for name in ROWS if name not in full]
    steps = next(ROWS[name].shared for name in rest)
    shared = ", ".join(f"`{key}={value}`" for key, value in steps.items())
    parts = [
        f"## At full length\n\n{_table(found, full)}",
        f"## One change at a time\n\nAll of these with {shared}.\n\n{_table(found, rest)}",
    ]
    return HEAD + "\n\n".join(parts) + "\n"


def _table(found: pd.DataFrame, names: list[str]) -> str:
    head = ["what", "changed", "seeds", "gap", "difference", "action", "color", "counting", "on keywords"]
    lines = [head, ["---"] * len(head)] + [_line(found, name) for name in names if (found.row == name).any()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(found: pd.DataFrame, name: str) -> list[str]:
    of = found[found.row == name].set_index("seed")
    mean, half = interval(of.gap)
    changes = "<br>".join(f"`{key}={value}`" for key, value in ROWS[name].changes.items())
    gap = f"{mean:.2f}" + (f" ± {half:.2f}" if np.isfinite(half) else "")
    parts = [f"{of[column].mean():.3f}" for column in ("action", "color", "counting")]
    return [ROWS[name].words, changes, str(len(of)), gap, _against(found, of, name), *parts, f"{of.on_complex.mean():+.3f}"]


def _against(found: pd.DataFrame, of: pd.DataFrame, name: str) -> str:
    other = ROWS[name].against
    both = of.join(found[found.row == other].set_index("seed").add_suffix("_other"), how="inner")
    if both.empty:
        return ""
    mean, half = interval(both.gap - both.gap_other)
    text = f"{mean:+.2f}" + (f" [{mean - half:+.2f}, {mean + half:+.2f}]" if np.isfinite(half) else "")
    text = f"**{text}**" if abs(mean) > half else text
    return text if other in ("ours", "full") else f"{text} from: {ROWS[other].words}"
