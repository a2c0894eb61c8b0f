"""sweep: images of the first prompts at several scales of the adapter, with the same initial noise as the arms.

The images at scale 0 are those of the arm `baseline`, and the images at the adapter's own scale those of the arm `adapter`: they are taken
from there if these arms have all of them, and generated if not.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.generation.attach import attach
from sur_adapter.generation.prompts import first_per_category, read_prompts
from sur_adapter.generation.sampling import GenerateConfig, ImageJob, SweepConfig, generate_images, image_jobs
from sur_adapter.io.shards import read_table, read_tar, write_tar
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.stable_diffusion import load_pipeline
from sur_adapter.models.torch_utils import resolve_device

if TYPE_CHECKING:
    from sur_adapter.config import Params


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--prompts", type=Path, required=True, help="file or folder of prompts")
    parser.add_argument("--adapter", type=Path, required=True, help="folder of the trained adapter")
    parser.add_argument("--images", type=Path, help="folder with the images of the arms, by generate, with the same settings and adapter")
    parser.add_argument("--out", type=Path, required=True, help="folder for one folder of images per scale")


def run(args: Namespace, params: "Params") -> None:
    models, config = params.section("models", ModelsConfig), params.section("generate", GenerateConfig)
    sweep(args.prompts, args.adapter, args.images, args.out, models, config, params.section("sweep", SweepConfig))


def sweep(
    prompts: Path, adapter: Path, images: Path | None, out: Path, models: ModelsConfig, generate: GenerateConfig, config: SweepConfig
) -> None:
    """Writes a folder for each scale, named after it, with images-000000.tar.

    Prompts and seeds are those of `config`, all else of `generate`. images: folder of the arms; the pipeline is loaded only if they lack
    images of some scale.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not config.strengths:
        return
    rows = first_per_category(read_prompts(prompts), config.per_category)
    jobs = image_jobs(rows, [row["prompt"] for row in rows], config.seeds)
    network = SURAdapter.from_pretrained(adapter)
    arms = {network.config.strength: "adapter", 0: "baseline"}
    scales = list(config.strengths)
    for scale in [scale for scale in scales if images and scale in arms]:
        if drawn := _images_of_arm(images / arms[scale], jobs):
            write_tar(_tar(out, scale), drawn)
            scales.remove(scale)
    if not scales:
        return
    pipe = load_pipeline(models.diffusion, generate.scheduler).to(resolve_device())
    handle = attach(pipe, network)
    sampling = replace(generate, per_category=config.per_category, seeds=config.seeds)
    for scale in scales:
        handle.scale = scale
        write_tar(_tar(out, scale), generate_images(pipe, jobs, models.resolution, sampling))


def _tar(out: Path, scale: float) -> Path:
    return out / f"{scale:g}" / "images-000000.tar"


def _images_of_arm(folder: Path, jobs: list[ImageJob]) -> list[tuple[str, str, bytes]] | None:
    """Reads the images of the jobs as (key, extension, bytes), in their order; None if the arm lacks one of them or its text."""
    if not folder.is_dir():
        return None
    table = read_table(folder / "prompts.parquet")
    texts, keys = dict(zip(table.id, table.text, strict=True)), {job.key for job in jobs}
    members = {member[0]: member for member in read_tar(folder) if member[0] in keys}
    if any(job.key not in members or texts.get(job.prompt_id) != job.text for job in jobs):
        return None
    return [members[job.key] for job in jobs]
