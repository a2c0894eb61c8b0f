"""generate: generates the images of one arm. All arms share prompts, seeds and initial noise."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.prompts import first_of_each_set
from sur_adapter.generation.sampling import GenerateConfig, image_jobs
from sur_adapter.generation.writer import write_images
from sur_adapter.io.shards import write_table
from sur_adapter.models.config import ModelsConfig

if TYPE_CHECKING:
    from sur_adapter.config import Params


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--arm", choices=ARMS, required=True, help="which prompts, and whether the adapter is attached")
    parser.add_argument("--prompts", type=Path, required=True, help="file or folder of prompts; sub-folders are sets of their own")
    parser.add_argument("--out", type=Path, required=True, help="folder for images-*.tar and prompts.parquet")
    parser.add_argument("--adapter", type=Path, help="folder of the trained adapter, for arms that use it")


def run(args: Namespace, params: "Params") -> None:
    models, config = params.section("models", ModelsConfig), params.section("generate", GenerateConfig)
    executor = params.section("executor", ExecutorConfig, required=False)
    generate(args.arm, args.prompts, args.out, args.adapter, models, config, executor)


def generate(
    arm: str, prompts: Path, out: Path, adapter: Path | None, models: ModelsConfig, config: GenerateConfig, executor: ExecutorConfig
) -> None:
    """Writes the images, keyed `<prompt id>-<index>`, and prompts.parquet, a table of id, category, arm and text.

    Raises ValueError if an adapter is given to an arm without one, or none to an arm that needs it.
    """
    if ARMS[arm].with_adapter != (adapter is not None):
        raise ValueError(f"the arm {arm} is generated {'with' if ARMS[arm].with_adapter else 'without'} an adapter: see dvc.yaml")
    rows = first_of_each_set(prompts, config.per_category)
    texts = [ARMS[arm].text(row) for row in rows]
    write_images(out, image_jobs(rows, texts, config.seeds), adapter, models, config, executor)
    table = pd.DataFrame({"id": [row["id"] for row in rows], "category": [row["category"] for row in rows], "arm": arm, "text": texts})
    write_table(out / "prompts.parquet", table)
