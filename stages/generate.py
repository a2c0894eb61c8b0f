"""generate: generates the images of one or more arms with one loaded pipeline. All arms share prompts, seeds and initial noise."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.prompts import MAIN, first_of_each_set
from sur_adapter.generation.rewriting import ANSWERS, count_parameters, rewrite_prompts
from sur_adapter.generation.sampling import GenerateConfig, image_jobs
from sur_adapter.generation.writer import write_images
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.shards import write_table
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.torch_utils import resolve_device

if TYPE_CHECKING:
    from sur_adapter.config import Params
    from sur_adapter.models.rewriter import RewriterConfig

TABLE = pa.schema([(name, pa.string()) for name in ("id", "category", "arm", "text")])  # of prompts.parquet


def add_arguments(parser: ArgumentParser) -> None:
    help_text = "which prompts, and whether the adapter is attached; all of them with the adapter, or all without it"
    parser.add_argument("--arms", choices=ARMS, nargs="+", required=True, metavar="ARM", help=f"{', '.join(ARMS)}: {help_text}")
    parser.add_argument("--prompts", type=Path, required=True, help="file or folder of prompts; sub-folders are sets of their own")
    parser.add_argument("--out", type=Path, required=True, help="folder for <arm>/images-000000.tar and <arm>/prompts.parquet")
    parser.add_argument("--adapter", type=Path, help="folder of the trained adapter, for arms that use it")
    help_text = "folder for <arm>.json with the seconds per image, which differ from run to run and are no out"
    parser.add_argument("--timings", type=Path, help=help_text)


def run(args: Namespace, params: "Params") -> None:
    models, config = params.section("models", ModelsConfig), params.section("generate", GenerateConfig)
    executor = params.section("executor", ExecutorConfig, required=False)
    rewriter = None
    if any(ARMS[arm].prompt == "rewritten" for arm in args.arms):
        from sur_adapter.models.rewriter import RewriterConfig  # only these arms need a language model

        names = {field.name for field in fields(RewriterConfig)}  # the stage cache reads and checks the other keys
        rewriter = params.section("cache.sentences", RewriterConfig, prepare=lambda raw: {k: v for k, v in raw.items() if k in names})
    generate(args.arms, args.prompts, args.out, args.adapter, models, config, executor, rewriter, args.timings)


def generate(
    arms: list[str],
    prompts: Path,
    out: Path,
    adapter: Path | None,
    models: ModelsConfig,
    config: GenerateConfig,
    executor: ExecutorConfig,
    rewriter: "RewriterConfig | None" = None,
    timings: Path | None = None,
) -> None:
    """Writes a folder of `out` for each arm: the images, keyed `<prompt id>-<index>`, and prompts.parquet: id, category, arm and text.

    The arm `rewrite` also writes the answers of the language model (rewriting.ANSWERS) into the table, and its size into llm.json.
    Raises ValueError if some of the arms use the adapter and others do not, if an adapter is given to arms without one, or none to arms
    that need it.
    """
    arms = list(dict.fromkeys(arms))
    _check_adapter(arms, adapter)
    sets = first_of_each_set(prompts, config.per_category)
    jobs, tables, seconds = {}, {}, {arm: {} for arm in arms}
    for arm in arms:
        own_sets = {MAIN: sets[MAIN]} if ARMS[arm].main_only else sets
        rows = [row for members in own_sets.values() for row in members]
        schema = TABLE
        if ARMS[arm].prompt == "rewritten":
            rows, seconds[arm]["rewriting_per_prompt"] = _rewrite(rows, models, rewriter, out / arm)
            schema = pa.schema([*TABLE, *ANSWERS])
        texts = [ARMS[arm].text(row) for row in rows]
        counts = [config.seeds if name == MAIN else config.set_seeds or config.seeds for name, members in own_sets.items() for _ in members]
        jobs[arm] = image_jobs(rows, texts, counts)
        tables[arm] = pd.DataFrame(rows).assign(arm=arm, text=texts)[schema.names], schema
    per_image = write_images(out, jobs, adapter, models, config, executor)
    for arm in arms:
        write_table(out / arm / "prompts.parquet", *tables[arm])
        seconds[arm]["per_image"] = per_image.get(arm)
        if timings:
            atomic_write_text(timings / f"{arm}.json", json.dumps(seconds[arm], indent=2) + "\n")


def _check_adapter(arms: list[str], adapter: Path | None) -> None:
    adapted, plain = ([arm for arm in arms if ARMS[arm].with_adapter == value] for value in (True, False))
    if adapted and plain:
        with_it, without_it = ", ".join(adapted), ", ".join(plain)
        raise ValueError(f"the arms {with_it} need the adapter and the arms {without_it} do without: give them to two calls of generate")
    if bool(adapted) != (adapter is not None):
        which = f"the arm {arms[0]} is" if len(arms) == 1 else f"the arms {', '.join(arms)} are"
        raise ValueError(f"{which} generated {'with' if adapted else 'without'} an adapter: see dvc.yaml")


def _rewrite(rows: list[dict], models: ModelsConfig, config: "RewriterConfig", out: Path) -> tuple[list[dict[str, Any]], float]:
    """Rewrites the prompts of `rows` with models.llm, writes its size into `out`, and frees it.

    Returns (the rows with ANSWERS and the key `rewritten`, seconds per prompt).
    """
    from sur_adapter.models.rewriter import Rewriter

    if models.llm is None:
        raise ValueError("params.yaml: models.llm is null, and the arm rewrite needs a language model: name one, or leave the arm out")
    rewriter = Rewriter(config, models.llm, resolve_device())
    table, seconds = rewrite_prompts([row["prompt"] for row in rows], rewriter)
    size = {"model": models.llm, "parameters": count_parameters(rewriter.model)}
    atomic_write_text(out / "llm.json", json.dumps(size, indent=2) + "\n")
    answers = table.to_dict("records")
    return [
        row | answer | {"rewritten": answer["answer"] and config.make_keyword_prompt(answer["answer"])}
        for row, answer in zip(rows, answers, strict=True)
    ], seconds
