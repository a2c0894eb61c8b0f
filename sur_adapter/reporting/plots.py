"""The numbers of a report for `dvc plots`, and the table that `evaluate` prints."""

from pathlib import Path

import pandas as pd

from sur_adapter.evaluation.image_quality import IMAGE_STATISTICS
from sur_adapter.evaluation.summary import category_names
from sur_adapter.generation.arms import ARMS
from sur_adapter.io.atomic import atomic_write_text


def write_plots(metrics: dict, arms: list[str], folder: Path) -> None:
    """Writes accuracy.csv (by category and arm), arms.csv (metrics that need no judge, by arm) and strength.csv into `folder`."""
    semantic = metrics.get("semantic", {})
    names = sorted([*category_names(semantic), "overall"]) if semantic else []
    cells = [(name, arm, semantic[name][arm]) for name in names for arm in arms]
    accuracy = [(name, arm, f"{name}, {arm}", cell["value"], cell["low"], cell["high"]) for name, arm, cell in cells]
    _write_csv(folder / "accuracy.csv", pd.DataFrame(accuracy, columns=["category", "arm", "label", "accuracy", "low", "high"]))
    by_arm = {name: metrics[name] for name in ("clip_score", "diversity") if name in metrics}
    by_arm |= {name: metrics["quality"][name] for name in IMAGE_STATISTICS}
    _write_csv(folder / "arms.csv", pd.DataFrame([{"arm": arm} | {name: values[arm] for name, values in by_arm.items()} for arm in arms]))
    points = [(float(strength), at["value"], at["low"], at["high"]) for strength, at in metrics.get("strength", {}).items()]
    _write_csv(folder / "strength.csv", pd.DataFrame(sorted(points), columns=["strength", "accuracy", "low", "high"]))


def text_table(metrics: dict, notes: dict) -> str:
    """Formats accuracy by arm and category, and the gap closed, as text; CLIP scores if there was no judge."""
    semantic = metrics.get("semantic")
    if not semantic:
        return "\n".join([f"{arm:<16}{value:>10.2f} CLIP score" for arm, value in metrics.get("clip_score", {}).items() if arm in ARMS])
    names = [*category_names(semantic), "overall"]
    arms = [arm for arm in ARMS if arm in semantic["overall"]]
    lines = [f"{'':<16}" + "".join(f"{name:>10}" for name in names)]
    lines += [f"{arm:<16}" + "".join(f"{semantic[name][arm]['value']:>10.3f}" for name in names) for arm in arms]
    gap = semantic["gap_closed"]
    closed = f"{gap['value']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}]" if "value" in gap else f"left out: {notes['semantic.gap_closed']}"
    return "\n".join([*lines, f"gap closed {closed}"])


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    atomic_write_text(path, table.to_csv(index=False, lineterminator="\n"))
