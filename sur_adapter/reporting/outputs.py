"""Writes the outs of `evaluate`: metrics, tables, plots, images and pages."""

import json
from pathlib import Path

import pyarrow as pa

from sur_adapter.evaluation.evaluator import Evaluation
from sur_adapter.evaluation.summary import JUDGEMENTS
from sur_adapter.generation.prompts import MAIN
from sur_adapter.io.atomic import atomic_write, atomic_write_text
from sur_adapter.io.shards import write_table
from sur_adapter.reporting.html import with_minus_signs
from sur_adapter.reporting.plots import text_table, write_plots, write_templates
from sur_adapter.reporting.report import report_page
from sur_adapter.reporting.sample_images import same_seed_grid
from sur_adapter.reporting.vote_page import vote_page


def write_outputs(folder: Path, evaluation: Evaluation, prompts: dict[str, dict], **inputs) -> None:
    """Writes all outs of `evaluate` into `folder` and prints the accuracies. prompts: of all sets, by id; inputs: the keyword arguments of
    `report_page`."""
    metrics, judged, images = evaluation.metrics, evaluation.judgements, evaluation.images
    notes = {name: with_minus_signs(reason) for name, reason in evaluation.notes.items()}
    table = judged[judged["set"] == MAIN]
    page = report_page(metrics, notes, table, prompts, evaluation.samples, images, rewritten=evaluation.rewritten, **inputs)
    _write_json(folder / "metrics.json", metrics)
    _write_json(folder / "notes.json", notes)
    more_metrics = [name for name in judged.columns if name not in JUDGEMENTS.names]
    write_table(folder / "judgements.parquet", judged, pa.schema([*JUDGEMENTS, *((name, pa.float32()) for name in more_metrics)]))
    write_plots(metrics, list(table.arm.unique()), folder / "plots")
    write_templates(judged, folder / "plots")
    with atomic_write(folder / "same_seed.png") as part:
        same_seed_grid(evaluation.samples["random"], prompts, images).save(part, "png")
    atomic_write_text(folder / "index.html", page)
    atomic_write_text(folder / "ab_vote.html", vote_page(evaluation.vote_key, prompts, images))
    atomic_write_text(folder / "ab_key.csv", evaluation.vote_key.to_csv(index=False, lineterminator="\n"))
    print(text_table(metrics, notes))


def _write_json(path: Path, tree: dict) -> None:
    atomic_write_text(path, json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
