"""Runs a stage in this process as the command line does: through its own parser and the checks of params.yaml."""

from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

from sur_adapter.config import Params

READS_ALL = {"w_diffusion": 1.0, "w_prompt": 1.0, "llm": "kl"}  # a loss that reads the features of every extractor


def run_stage(name: str, params: dict, **options) -> None:
    """Runs stages/<name>.py with sections of params.yaml. options: its command line options, `_` for `-`; a list gives one
    several values, None leaves one out."""
    stage = import_module(f"stages.{name}")
    parser = ArgumentParser(name, exit_on_error=False)
    stage.add_arguments(parser)
    given = {f"--{key.replace('_', '-')}": value for key, value in options.items() if value is not None}
    arguments = [str(word) for option, value in given.items() for word in (option, *(value if isinstance(value, list) else [value]))]
    stage.run(parser.parse_args(arguments), Params(params))


def crawl(
    out: Path, forgotten: Path | None = None, *, sources: dict, executor: dict | None = None, rows_per_shard: int | None = None
) -> None:
    """Crawls the source that `out` is named after."""
    options = {"source": out.name, "out": out, "forgotten": forgotten, "rows_per_shard": rows_per_shard}
    run_stage("crawl", {"sources": sources, "executor": executor}, **options)


def caption(raw: Path, out: Path, *, caption: dict, executor: dict | None = None) -> None:
    run_stage("caption", {"caption": caption, "executor": executor}, raw=raw, out=out)


def score(raw: Path, captions: Path, out: Path, *, scores: dict, sources: dict, executor: dict | None = None) -> None:
    """Writes a folder of `out` for each score."""
    sections = {"scores": scores, "sources": sources, "executor": executor}
    run_stage("score", sections, raw=raw, captions=captions, out=out)


def filter_pairs(raw: Path, captions: Path, scored: Path, pairs: Path, funnel: Path, splits: Path | None = None, **sections) -> None:
    """Runs filter with its sections of params.yaml; funnel.csv and data.md are written beside `funnel`."""
    outs = {"pairs": pairs, "funnel": funnel, "funnel_csv": funnel.with_suffix(".csv"), "data_card": funnel.parent / "data.md"}
    run_stage("filter", sections, raw=raw, captions=captions, scores=scored, splits=splits, **outs)


def train(
    clip: Path, llm: Path, vae: Path, queries: Path, out: Path, log: Path, *, models: dict, adapter: dict, loss: dict, train: dict
) -> None:
    sections = {"models": {"resolution": 64} | models, "adapter": adapter, "loss": loss, "train": train}
    run_stage("train", sections, clip=clip, llm=llm, vae=vae, queries=queries, out=out, reports=log)


def generate(
    prompts: Path, images: Path, *arms: str, adapter: Path | None = None, models: dict, generate: dict, executor: dict | None = None
) -> None:
    """Writes a folder of `images` for each arm."""
    sections = {"models": models, "generate": generate, "executor": executor}
    run_stage("generate", sections, arms=list(arms), prompts=prompts, out=images, adapter=adapter)


def sweep(prompts: Path, out: Path, adapter: Path, images: Path | None = None, *, models: dict, generate: dict, sweep: dict) -> None:
    sections = {"models": models, "generate": generate, "sweep": sweep}
    run_stage("sweep", sections, prompts=prompts, adapter=adapter, images=images, out=out)


def cache(pairs: Path, raw: Path, out: Path, *, cache: dict, models: dict, loss: dict = READS_ALL, executor: dict | None = None) -> None:
    """The folder's name says which features."""
    sections = {"cache": cache, "models": models, "loss": loss, "executor": executor}
    run_stage("cache", sections, features=out.name, pairs=pairs, raw=raw, out=out)


def evaluate(
    prompts: Path,
    images: Path,
    funnel: Path,
    training: Path,
    adapter: Path,
    out_dir: Path,
    features: Path | None = None,
    votes: Path | None = None,
    sweep: Path | None = None,
    sentences: Path | None = None,
    answers: Path | None = None,
    timings: Path | None = None,
    trainings: Path | None = None,
    *,
    evaluate: dict,
    generate: dict | None = None,
    models: dict | None = None,
) -> None:
    """A data.md beside `funnel` is the data card; `training` holds history.json."""
    sections = {"evaluate": evaluate, "generate": generate, "models": models}
    card = funnel.with_name("data.md") if funnel.with_name("data.md").exists() else None
    inputs = {"prompts": prompts, "images": images, "funnel": funnel, "history": training / "history.json", "adapter": adapter}
    more = {"data_card": card, "features": features, "votes": votes, "sweep": sweep}
    more |= {"sentences": sentences, "answers": answers, "timings": timings, "trainings": trainings}
    run_stage("evaluate", sections, **inputs, **more, out_dir=out_dir)
