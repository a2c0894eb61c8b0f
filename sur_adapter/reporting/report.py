"""Renders the report: one self-contained HTML file, without network, script or clock.

A section is an entry of SECTIONS, a template of its name in templates/sections, and a value in `report_page`, which the template gets as
`data`. A section without data is left out.
"""

import pandas as pd

from sur_adapter.evaluation.confusion import COUNTED, ERROR, confusion_matrix, count_matrix, error_counts
from sur_adapter.evaluation.sample_selection import Key
from sur_adapter.evaluation.summary import accuracy_by_template, category_names
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.prompts import MAIN
from sur_adapter.reporting.charts import bar_chart, interval_charts, line_chart, strength_chart
from sur_adapter.reporting.headline import MAIN_METRICS, format_metric, headline, role_of_prompts, worse_metrics
from sur_adapter.reporting.html import render, sanitize
from sur_adapter.reporting.prompt_sets import rewrite_table, set_tables
from sur_adapter.reporting.provenance import leaves, provenance
from sur_adapter.reporting.sample_images import sample_rows
from sur_adapter.reporting.trainings import trainings_lines

SECTIONS = {  # template: heading, in the report's order
    "accuracy": "Accuracy",
    "random": "Random samples",
    "best": "Largest improvements",
    "worst": "Failures",
    "strength": "Accuracy by adapter scale",
    "errors": "Kinds of error",
    "confusion": "Confusion matrices",
    "sets": "Other sets of prompts",
    "rewrite": "Adapter against rewriting",
    "human": "Human preference",
    "image_metrics": "Image metrics",
    "teacher": "Answers of the language model",
    "training": "Training",
    "funnel": "Data",
    "provenance": "Models, settings and data",
    "limitations": "Limitations",
}
PAIRS = (  # sections side by side where the screen is wide enough; the first pair of which both have data counts
    ("strength", "errors"),
    ("human", "image_metrics"),
    ("image_metrics", "teacher"),
    ("training", "funnel"),
)
COMPARISONS = {  # key of metrics.json: semantic -> label
    "against_complex": "adapter − complex (keyword prompt)",
    "on_complex": "complex + adapter − complex",
}
VOTE_LABELS = {  # label -> key of metrics.json: human.answers; "": the arm that the adapter is compared with
    "adapter is better": "adapter",
    "the other is better": "",
    "both right": "both_right",
    "both wrong": "both_wrong",
    "neither is better": "tie",
}
NARROW = ("complex_adapter", "rewrite")  # arms that tables leave out, because a phone has no room for all
MAIN_CURVES = ("loss", "validation_loss")  # of the history: shown at once; the others unfold
MAX_SHADE = 30  # percent of color in a cell of a confusion matrix: its number stays readable


def report_page(
    metrics: dict,
    notes: dict,
    judgements: pd.DataFrame,
    prompts: dict[str, dict],
    samples: dict[str, list[Key]],
    images: dict[tuple, bytes],
    *,
    funnel: dict,
    history: list,
    config: dict,
    settings: dict | None = None,
    data_card: str = "",
    rewritten: pd.DataFrame | None = None,
    trainings: dict | None = None,
) -> str:
    """Renders the report as HTML. metrics, notes: what metrics.json and notes.json hold; judgements: of the main set; prompts: by id.

    samples: of sample_selection.select_samples; images: (arm, prompt id, seed) -> bytes. funnel, history, config: the JSON of filtering, of
    training and of the adapter; settings: sections of params.yaml; data_card: Markdown; rewritten: of evaluation.rewriting.read_answers;
    trainings: of trainings.trainings_of.
    """
    arms = [arm for arm in ARMS if arm in set(judgements.arm)]
    by_key = judgements.set_index(["arm", "id", "seed"])
    templates = accuracy_by_template(judgements.assign(set=MAIN)).to_dict("records")
    data = {
        "accuracy": _accuracy(metrics.get("semantic"), arms, templates),
        "sets": set_tables(metrics.get("sets")),
        "rewrite": rewrite_table(metrics, rewritten),
        "teacher": metrics.get("teacher"),
        "errors": _errors(judgements, arms),
        "confusion": _confusion(judgements, arms),
        "strength": _strength(metrics.get("strength")),
        "human": _human(metrics.get("human", {})),
        **{name: sample_rows(keys, by_key, prompts, arms, images) for name, keys in samples.items()},
        "image_metrics": _image_metrics(metrics, arms),
        "training": _training(history, config),
        "funnel": _funnel(funnel),
        "provenance": provenance(config, settings or {}, data_card),
        "limitations": _limitations(metrics, notes) | {"templates": len(templates)},
    }
    data["worst"].sort(key=lambda row: ("adapter" not in row["fails"], not row["fails"]))  # stable: by category otherwise
    present = {name for name, value in data.items() if value is not None}
    halves: set[str] = set()
    for pair in PAIRS:
        halves |= set(pair) if present.issuperset(pair) and halves.isdisjoint(pair) else set()
    sections = [
        {"name": name, "title": title, "data": data[name], "is_half": name in halves} for name, title in SECTIONS.items() if name in present
    ]
    top = headline(metrics, notes) | {
        "trainings": trainings_lines(trainings or {}),
        "role": role_of_prompts(settings or {}),
        "templates": len(templates),
    }
    return render("report.html", ("report.css",), sections=sections, headline=top, counts=metrics["counts"])


def _accuracy(semantic: dict | None, arms: list[str], templates: list[dict]) -> dict | None:
    if not semantic:
        return None
    names = [*category_names(semantic), "overall"]
    groups = {name: semantic[name] for name in names}
    intervals = {
        name: {arm: (by_arm[arm]["value"], by_arm[arm]["low"], by_arm[arm]["high"]) for arm in arms} for name, by_arm in groups.items()
    }
    return {
        "arms": arms,
        "labels": {arm: ARMS[arm].label for arm in arms},
        "groups": groups,
        "differences": [semantic["difference"] if name == "overall" else semantic["difference"][name] for name in names],
        "comparisons": {label: semantic[name] for name, label in COMPARISONS.items() if name in semantic},
        "gaps": [semantic["gap_closed"] if name == "overall" else semantic["gap_closed"].get(name, {}) for name in names],
        "charts": interval_charts(intervals, "Accuracy"),
        "templates": templates,
    }


def _errors(judgements: pd.DataFrame, arms: list[str]) -> dict | None:
    """Returns arm -> its number of images, and kind of error -> its numbers by arm."""
    if ERROR not in judgements or judgements[ERROR].isna().all():
        return None
    arms = [arm for arm in arms if arm not in NARROW]
    counts = error_counts(judgements)[arms]
    return {
        "images": {arm: int((judgements.arm == arm).sum()) for arm in arms},
        "counts": {kind: list(row) for kind, row in counts.iterrows()},
    }


def _confusion(judgements: pd.DataFrame, arms: list[str]) -> dict | None:
    """Returns what is compared -> arm -> its matrix, as rows of cells."""
    shown, matrices = [arm for arm in arms if arm in ("baseline", "adapter")], {}
    if COUNTED in judgements and judgements[COUNTED].notna().any():
        matrices["number"] = {arm: _cells(count_matrix(judgements, arm)) for arm in shown}
    for kind in ("color", "pose"):
        if f"asked_{kind}" in judgements and judgements[f"asked_{kind}"].notna().any():
            matrices[kind] = {arm: _cells(confusion_matrix(judgements, arm, kind)) for arm in shown}
    return matrices or None


def _cells(matrix: pd.DataFrame) -> dict:
    """Returns the matrix as rows of cells; of numbers, the last column stands for more, too."""
    numbers = pd.api.types.is_integer_dtype(matrix.columns)
    columns = [f"{name}+" if numbers and name == matrix.columns[-1] else str(name) for name in matrix.columns]
    rows = []
    for asked, counts in matrix.iterrows():
        total = counts.sum() or 1
        cells = [{"count": count, "correct": seen == asked, "shade": MAX_SHADE * count / total} for seen, count in counts.items()]
        rows.append({"name": asked, "cells": cells})
    return {"columns": columns, "rows": rows}


def _strength(strength: dict | None) -> dict | None:
    points = sorted((float(name), at["value"], at["low"], at["high"]) for name, at in (strength or {}).items())
    return {"chart": strength_chart(points, "Accuracy by adapter scale", "adapter scale")} if points else None


def _human(human: dict) -> dict | None:
    """Returns the arms that the adapter was compared with, the numbers of each, and the numbers of answers, as rows."""
    blocks = {"baseline": human, "complex": human.get("against_complex", {})}
    blocks = {arm: {"answers": {}} | block for arm, block in blocks.items() if "win_rate" in block}
    rows = {
        label: [block["answers"].get(answer or arm, 0) for arm, block in blocks.items()]
        for label, answer in VOTE_LABELS.items()
        if answer != "tie" or any(block["answers"].get("tie") for block in blocks.values())
    }
    return {"blocks": blocks, "rows": rows} if blocks else None


def _image_metrics(metrics: dict, arms: list[str]) -> dict:
    """Returns all metrics that have a mean by arm, and which are worse with the adapter; the arms of NARROW are only in metrics.json."""
    quality = {name: by_arm for name, by_arm in metrics["quality"].items() if isinstance(by_arm, dict)}
    other = {
        name: by_arm for name, by_arm in metrics.items() if isinstance(by_arm, dict) and isinstance(by_arm.get("adapter"), (int, float))
    }
    arms = [arm for arm in arms if arm not in NARROW]
    rows = {name: [format_metric(by_arm.get(arm)) for arm in arms] for name, by_arm in (other | quality).items()}
    return {
        "arms": arms,
        "main": {name: row for name, row in rows.items() if name in MAIN_METRICS},
        "others": {name: row for name, row in rows.items() if name not in MAIN_METRICS},
        "worse": worse_metrics(metrics),
        "regressed": [name for name, by_arm in quality.items() if by_arm.get("regressed")],
    }


def _training(history: list, config: dict) -> dict:
    """Draws a chart for each number of the history. config: of the adapter, whose keys are the training parameters."""
    points: dict[str, list] = {}
    for row in history:
        if isinstance(row, dict) and "step" in row:
            for key, value in row.items():
                if key != "step" and isinstance(value, (int, float)):
                    points.setdefault(key, []).append((row["step"], value))
    charts = {key: line_chart(line, key.replace("_", " "), "norm" if key.endswith("norm") else "loss") for key, line in points.items()}
    main = [charts.pop(key) for key in MAIN_CURVES if key in charts]
    return {"main": main, "others": list(charts.values()), "parameters": list(leaves({"adapter": config}))}


def _funnel(funnel: dict) -> dict:
    """Draws charts of the pairs: crawled, dropped and kept, and the splits of those kept; a chart with the reasons for each source."""
    sources, splits = funnel.get("by_source", {}), funnel.get("by_split", {})
    reasons = {name: _reasons_chart(rows, name) for name, rows in (sources or {"all sources": funnel}).items()}
    rows, kept = funnel.get("in", 0), funnel.get("kept", 0)
    summary = [bar_chart({"crawled": rows, "dropped": rows - kept, "kept": kept}, f"{kept} of {rows} pairs were kept", ("kept",))]
    summary += [bar_chart(splits, "Splits of the kept pairs")] if splits else []
    return {"summary": summary, "rows": rows, "kept": kept, "reasons": reasons, "splits": splits}


def _reasons_chart(rows: dict, name: str) -> str:
    dropped = {f"dropped: {reason}".replace("_", " "): count for reason, count in rows.get("dropped", {}).items()}
    counts = {"crawled": rows.get("in", 0)} | dropped | {"kept": rows.get("kept", 0)}
    return bar_chart(counts, f"{sanitize(name)}: {counts['kept']} of {counts['crawled']} pairs were kept", ("kept",))


def _limitations(metrics: dict, notes: dict) -> dict:
    test = metrics.get("semantic", {}).get("difference", {})
    return {"prompts": metrics["counts"]["prompts"], "smallest_detectable": test.get("smallest_detectable"), "notes": sorted(notes.items())}
