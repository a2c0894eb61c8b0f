"""generate: generates the images of one arm. All arms share prompts, seeds and initial noise."""

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
    parser.add_argument("--arm", choices=ARMS, required=True, help="which prompts, and whether the adapter is attached")
    parser.add_argument("--prompts", type=Path, required=True, help="file or folder of prompts; sub-folders are sets of their own")
    parser.add_argument("--out", type=Path, required=True, help="folder for images-*.tar and prompts.parquet")
    parser.add_argument("--adapter", type=Path, help="folder of the trained adapter, for arms that use it")
    help_text = "folder for <arm>.json with the seconds per image, which differ from run to run and are no out"
    parser.add_argument("--timings", type=Path, help=help_text)


def run(args: Namespace, params: "Params") -> None:
    models, config = params.section("models", ModelsConfig), params.section("generate", GenerateConfig)
    executor = params.section("executor", ExecutorConfig, required=False)
    rewriter = None
    if ARMS[args.arm].prompt == "rewritten":
        from sur_adapter.models.rewriter import RewriterConfig  # only this arm needs a language model

        names = {field.name for field in fields(RewriterConfig)}  # the stage cache reads and checks the other keys
        rewriter = params.section("cache.sentences", RewriterConfig, prepare=lambda raw: {k: v for k, v in raw.items() if k in names})
    generate(args.arm, args.prompts, args.out, args.adapter, models, config, executor, rewriter, args.timings)


def generate(
    arm: str,
    prompts: Path,
    out: Path,
    adapter: Path | None,
    models: ModelsConfig,
    config: GenerateConfig,
    executor: ExecutorConfig,
    rewriter: "RewriterConfig | None" = None,
    timings: Path | None = None,
) -> None:
    """Writes the images, keyed `<prompt id>-<index>`, and prompts.parquet, a table of id, category, arm and text.

    The arm `rewrite` also writes the answers of the language model (rewriting.ANSWERS) into the table, and its size into llm.json.
    Raises ValueError if an adapter is given to an arm without one, or none to an arm that needs it.
    """
    if ARMS[arm].with_adapter != (adapter is not None):
        raise ValueError(f"the arm {arm} is generated {'with' if ARMS[arm].with_adapter else 'without'} an adapter: see dvc.yaml")
    sets, seconds = first_of_each_set(prompts, config.per_category), {}
    if ARMS[arm].main_only:
        sets = {MAIN: sets[MAIN]}
    rows = [row for members in sets.values() for row in members]
    counts = [config.seeds if name == MAIN else config.set_seeds or config.seeds for name, members in sets.items() for _ in members]
    schema = TABLE
    if rewriter:
        answers, seconds["rewriting_per_prompt"] = _rewrite([row["prompt"] for row in rows], models, rewriter, out)
        rows = [
            row | answer | {"rewritten": answer["answer"] and rewriter.make_keyword_prompt(answer["answer"])}
            for row, answer in zip(rows, answers, strict=True)
        ]
        schema = pa.schema([*TABLE, *ANSWERS])
    texts = [ARMS[arm].text(row) for row in rows]
    seconds["per_image"] = write_images(out, image_jobs(rows, texts, counts), adapter, models, config, executor)
    table = pd.DataFrame(rows).assign(arm=arm, text=texts)[schema.names]
    write_table(out / "prompts.parquet", table, schema)
    if timings:
        atomic_write_text(timings / f"{arm}.json", json.dumps(seconds, indent=2) + "\n")


def _rewrite(prompts: list[str], models: ModelsConfig, config: "RewriterConfig", out: Path) -> tuple[list[dict[str, Any]], float]:
    """Rewrites the prompts with models.llm, writes its size, and frees it. Returns (a row of ANSWERS per prompt, seconds per prompt)."""
    from sur_adapter.models.rewriter import Rewriter

    if models.llm is None:
        raise ValueError("params.yaml: models.llm is null, and the arm rewrite needs a language model: name one, or leave the arm out")
    rewriter = Rewriter(config, models.llm, resolve_device())
    table, seconds = rewrite_prompts(prompts, rewriter)
    size = {"model": models.llm, "parameters": count_parameters(rewriter.model)}
    atomic_write_text(out / "llm.json", json.dumps(size, indent=2) + "\n")
    return table.to_dict("records"), seconds
