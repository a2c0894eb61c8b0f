"""evaluate: measures and compares the images of all arms, and writes metrics with intervals, a report and a vote page."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sur_adapter.evaluation.evaluator import EvaluateConfig, evaluate_images
from sur_adapter.evaluation.human_votes import read_votes
from sur_adapter.evaluation.measurements import Measurements
from sur_adapter.generation.prompts import PromptSets, read_prompt_sets
from sur_adapter.reporting.outputs import write_outputs
from sur_adapter.reporting.plots import timing_table
from sur_adapter.reporting.trainings import trainings_of

if TYPE_CHECKING:
    from sur_adapter.config import Params


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--prompts", type=Path, required=True, help="file or folder of the prompts that the images were generated for")
    parser.add_argument("--images", type=Path, required=True, help="folder with the images of each arm")
    parser.add_argument("--funnel", type=Path, required=True, help="funnel.json of filter")
    parser.add_argument("--history", type=Path, required=True, help="history.json of train")
    parser.add_argument("--adapter", type=Path, required=True, help="folder of the trained adapter")
    parser.add_argument("--data-card", type=Path, help="data card of filter, Markdown")
    parser.add_argument("--features", type=Path, help="cached features of the text encoder, for embedding distances")
    parser.add_argument("--votes", type=Path, help="votes.csv: votes of the vote page")
    parser.add_argument("--sweep", type=Path, help="folder of the images at several adapter scales, by sweep")
    parser.add_argument("--sentences", type=Path, help="table of the text-only sentences, with the right answers of some")
    parser.add_argument("--answers", type=Path, help="answers.parquet: what the language model answered to the sentences")
    parser.add_argument("--trainings", type=Path, help="seeds.json of several trainings; shown if this adapter is one of them")
    parser.add_argument("--timings", type=Path, help="folder of the seconds per image of each arm, by generate; they are only printed")
    help_text = "folder for metrics.json, notes.json, judgements.parquet, index.html, ab_vote.html, ab_key.csv, same_seed.png and plots/"
    parser.add_argument("--out-dir", type=Path, required=True, help=help_text)


def run(args: Namespace, params: "Params") -> None:
    config = params.section("evaluate", EvaluateConfig)
    settings = {
        "evaluate": params.raw("evaluate"),
        "generate": params.raw("generate", required=False) or {},
        "models": params.raw("models", required=False) or {},
        "prompt_sets": asdict(params.section("prompt_sets", PromptSets, required=False)),
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
    sentences: Path | None,
    answers: Path | None,
    trainings: Path | None,
    timings: Path | None,
    out_dir: Path,
    config: EvaluateConfig,
    settings: dict,
) -> None:
    """Writes all outs into `out_dir`. The paths are the options of the command line; settings: sections of params.yaml, for the report."""
    measurements = Measurements(config.judge, config.clip, config.metrics)
    sets, ballots = read_prompt_sets(prompts), read_votes(votes) if votes else None
    evaluation = evaluate_images(config, measurements, sets, images, adapter, features, ballots, sweep, sentences, answers)
    inputs = {"funnel": _read_json(funnel), "history": _read_json(history), "config": _read_json(adapter / "config.json")}
    card = _read_text(data_card) if data_card else ""
    inputs["trainings"] = trainings_of(_read_json(trainings), adapter) if trainings else {}
    by_id = {row["id"]: row for rows in sets.values() for row in rows}
    write_outputs(out_dir, evaluation, by_id, **inputs, settings=settings, data_card=card)
    if timings and timings.is_dir():
        print(timing_table(timings))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: run the stage that writes it (`dvc repro`)") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it and run `dvc repro`") from error
