"""evaluate: compares the images of all arms, and writes metrics with intervals, a report and a vote page."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pyarrow as pa

from sur_adapter.config import Params
from sur_adapter.evaluation.evaluator import (
    EvaluateConfig,
    compare_sets,
    measure_embedding_distance,
    measure_images,
    measure_strength,
    missing_notes,
    read_images,
)
from sur_adapter.evaluation.human_votes import answer_key, read_votes, summarize_votes
from sur_adapter.evaluation.measurements import Measurements
from sur_adapter.evaluation.sample_selection import sample_pairs, select_samples
from sur_adapter.evaluation.summary import JUDGEMENTS, round_floats, summarize
from sur_adapter.generation.prompts import read_prompts
from sur_adapter.io.atomic import atomic_write, atomic_write_text
from sur_adapter.io.shards import write_table
from sur_adapter.reporting.plots import text_table, write_plots
from sur_adapter.reporting.report import report_page
from sur_adapter.reporting.sample_images import same_seed_grid
from sur_adapter.reporting.vote_page import vote_page


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--prompts", type=Path, required=True, help="file or folder of the prompts that the images were generated for")
    parser.add_argument("--images", type=Path, required=True, help="folder with the images of each arm")
    parser.add_argument("--funnel", type=Path, required=True, help="funnel.json of filter")
    parser.add_argument("--history", type=Path, required=True, help="history.json of train")
    parser.add_argument("--adapter", type=Path, required=True, help="folder of the trained adapter")
    parser.add_argument("--data-card", type=Path, help="data card of filter, Markdown")
    parser.add_argument("--features", type=Path, help="cached features of the text encoder, for embedding distances")
    parser.add_argument("--votes", type=Path, help="votes.csv of people")
    parser.add_argument("--sweep", type=Path, help="images by adapter strength")
    help_text = "folder for metrics.json, notes.json, judgements.parquet, index.html, ab_vote.html, ab_key.csv, same_seed.png and plots/"
    parser.add_argument("--out-dir", type=Path, required=True, help=help_text)


def run(args: Namespace, params: Params) -> None:
    config = params.section("evaluate", EvaluateConfig)
    settings = {
        "evaluate": params.raw("evaluate"),
        "generate": params.raw("generate", required=False) or {},
        "models": params.raw("models", required=False) or {},
    }
    evaluate(**vars(args), config=config, settings=settings)


def evaluate(
    prompts: Path,
    images: Path,
    funnel: Path,
    history: Path,
    adapter: Path,
    data_card: Path | None,
    features: Path | None,
    votes: Path | None,
    sweep: Path | None,
    out_dir: Path,
    config: EvaluateConfig,
    settings: dict,
) -> None:
    """Writes all outs into `out_dir`. The paths are the options of the command line; settings: sections of params.yaml, for the report."""
    measurements = Measurements(config.judge, config.clip, config.metrics)
    prompt_rows = {row["id"]: row for row in read_prompts(prompts)}
    cast = read_votes(votes) if votes else None
    table, embeds = measure_images(images, prompt_rows, measurements)
    samples, pairs = select_samples(table, config.seed), sample_pairs(table, config.num_vote_pairs, config.seed)
    shown = {key for keys in samples.values() for key in keys} | set(pairs)  # (prompt id, seed)
    files = {key: data for key, data in read_images(images, list(table.arm.unique())) if key[1:] in shown}
    vote_key = answer_key(pairs, prompt_rows, files, config.seed)

    with_complex = {name for name, prompt in prompt_rows.items() if prompt.get("complex_prompt")}
    metrics, notes = summarize(table, with_complex, config.bootstrap_resamples, config.seed, config.tolerance, measurements.metrics)
    notes |= missing_notes(table, measurements)
    for more_metrics, more_notes in (
        compare_sets(table, embeds, measurements.set_metrics),
        measure_embedding_distance(adapter, features),
        measure_strength(sweep, prompt_rows, measurements),
        ({}, {}) if cast is None else summarize_votes(cast, vote_key, config.bootstrap_resamples, config.seed),
    ):
        metrics, notes = metrics | round_floats(more_metrics), notes | more_notes

    _write_json(out_dir / "metrics.json", metrics)
    _write_json(out_dir / "notes.json", notes)
    schema = pa.schema([*JUDGEMENTS, *((name, pa.float32()) for name in measurements.metrics)])
    write_table(out_dir / "judgements.parquet", table, schema)
    write_plots(metrics, list(table.arm.unique()), out_dir / "plots")
    with atomic_write(out_dir / "same_seed.png") as part:
        same_seed_grid(samples["random"], prompt_rows, files).save(part, "png")
    inputs = {"funnel": _read_json(funnel), "history": _read_json(history), "config": _read_json(adapter / "config.json")}
    card = _read(data_card) if data_card else ""
    page = report_page(metrics, notes, table, prompt_rows, samples, files, **inputs, settings=settings, data_card=card)
    atomic_write_text(out_dir / "index.html", page)
    atomic_write_text(out_dir / "ab_vote.html", vote_page(vote_key, prompt_rows, files))
    atomic_write_text(out_dir / "ab_key.csv", vote_key.to_csv(index=False, lineterminator="\n"))
    print(text_table(metrics, notes))


def _write_json(path: Path, tree: dict) -> None:
    atomic_write_text(path, json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: run the stage that writes it (`dvc repro`)") from error


def _read_json(path: Path):
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it and run `dvc repro`") from error
