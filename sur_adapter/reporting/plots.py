"""The numbers of a report for `dvc plots`, and the table that `evaluate` prints."""

import json
from pathlib import Path

import pandas as pd

from sur_adapter.evaluation.image_quality import IMAGE_STATISTICS
from sur_adapter.evaluation.summary import DIGITS, accuracy_by_template, category_names
from sur_adapter.generation.arms import ARMS
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.reporting.html import number


def write_plots(metrics: dict, arms: list[str], folder: Path) -> None:
    """Writes accuracy.csv (by category and arm), arms.csv (metrics that need no judge, by arm) and strength.csv into `folder`.

    sets.csv, the accuracy on the other sets, is written if there are any.
    """
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
    rates = [(*names, rate["value"], rate["low"], rate["high"]) for *names, rate in set_rates(metrics.get("sets", {}))]
    if rates:
        _write_csv(folder / "sets.csv", pd.DataFrame(rates, columns=["set", "category", "arm", "accuracy", "low", "high"]))


def write_templates(judgements: pd.DataFrame, folder: Path) -> None:
    """Writes templates.csv, the accuracy of each arm by template, into `folder` if prompts have templates. judgements: of all sets."""
    table = accuracy_by_template(judgements)
    if len(table):
        _write_csv(folder / "templates.csv", table.round(DIGITS))


def set_rates(sets: dict) -> list[tuple[str, str, str, dict]]:
    """Lists (set, category, arm, rate) of `sets` in metrics.json, "overall" after the categories of its set."""
    return [
        (name, category, arm, block[arm][category])
        for name, block in sets.items()
        for category in sorted(block["adapter"], key=lambda category: (category == "overall", category))
        for arm in ARMS
        if arm in block
    ]


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
    value, low, high = (number(gap[key], ".3f") if "value" in gap else "" for key in ("value", "low", "high"))
    closed = f"{value} [{low}, {high}]" if value else f"left out: {notes['semantic.gap_closed']}"
    return "\n".join([*lines, f"gap closed {closed}", *_set_lines(metrics.get("sets", {}))])


def _set_lines(sets: dict) -> list[str]:
    """Formats the accuracy on the other sets, a line per category, a column per arm."""
    lines: list[str] = []
    for name, category, arm, rate in set_rates(sets):
        if arm == "baseline":
            lines.append(f"{name + ' ' + category:<32}")
        lines[-1] += f"  {arm} {rate['value']:.3f}"
    return lines


def timing_table(folder: Path) -> str:
    """Formats the seconds that `generate` measured for each arm in its last run here, as text."""
    lines = []
    for file in (file for arm in ARMS if (file := folder / f"{arm}.json").exists()):
        seconds = {name: value for name, value in json.loads(file.read_text(encoding="utf-8")).items() if value is not None}
        lines += [f"{file.stem:<16}" + ", ".join(f"{value:.4f} s {name.replace('_', ' ')}" for name, value in seconds.items())]
    return "\n".join(lines)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    atomic_write_text(path, table.to_csv(index=False, lineterminator="\n"))
