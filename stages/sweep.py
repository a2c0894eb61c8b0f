"""sweep: generates images of the first prompts at several scales of the adapter, with the same initial noise as the arms."""

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.generation.attach import attach
from sur_adapter.generation.prompts import first_per_category, read_prompts
from sur_adapter.generation.sampling import GenerateConfig, SweepConfig, generate_images, image_jobs
from sur_adapter.io.shards import write_tar
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.stable_diffusion import load_pipeline
from sur_adapter.models.torch_utils import resolve_device

if TYPE_CHECKING:
    from sur_adapter.config import Params


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--prompts", type=Path, required=True, help="file or folder of prompts")
    parser.add_argument("--adapter", type=Path, required=True, help="folder of the trained adapter")
    parser.add_argument("--out", type=Path, required=True, help="folder for one folder of images per scale")


def run(args: Namespace, params: "Params") -> None:
    models, config = params.section("models", ModelsConfig), params.section("generate", GenerateConfig)
    sweep(args.prompts, args.adapter, args.out, models, config, params.section("sweep", SweepConfig))


def sweep(prompts: Path, adapter: Path, out: Path, models: ModelsConfig, generate: GenerateConfig, config: SweepConfig) -> None:
    """Writes a folder for each scale, named after it, with images-000000.tar.

    Prompts and seeds are those of `config`, all else of `generate`.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not config.strengths:
        return
    rows = first_per_category(read_prompts(prompts), config.per_category)
    jobs = image_jobs(rows, [row["prompt"] for row in rows], config.seeds)
    pipe = load_pipeline(models.diffusion).to(resolve_device())
    handle = attach(pipe, SURAdapter.from_pretrained(adapter))
    sampling = replace(generate, per_category=config.per_category, seeds=config.seeds)
    for scale in config.strengths:
        handle.scale = scale
        write_tar(out / f"{scale:g}" / "images-000000.tar", generate_images(pipe, jobs, models.resolution, sampling))
