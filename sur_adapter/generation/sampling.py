"""Samples images from a diffusers pipeline.

The initial noise of an image is a function of its prompt's id and its seed only. It depends neither on the arm nor on the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sur_adapter.models.torch_utils import autocast


@dataclass(frozen=True)
class GenerateConfig:
    """Section `generate` of params.yaml.

    prompts: file or folder of prompts, which dvc.yaml passes on. per_category: the first prompts of each category; seeds: images of each
    prompt; set_seeds: of those of sets other than the main one, null for `seeds`. scheduler: of models.stable_diffusion.SCHEDULERS, null
    for the model's own. precision: of matrix products and convolutions; the latents stay in fp32 between the steps. seed: of the initial
    noise.
    """

    per_category: int
    seeds: int
    num_inference_steps: int
    guidance_scale: float
    prompts: Path | None = None
    batch_size: int = 4
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = 0
    set_seeds: int | None = None
    scheduler: Literal["ddim", "dpmpp_2m", "dpmpp_2m_karras", "euler", "unipc"] | None = None

    def __post_init__(self):
        for name in ("per_category", "seeds", "set_seeds", "num_inference_steps", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a whole number of at least 1")


@dataclass(frozen=True)
class SweepConfig:
    """Section `sweep` of params.yaml: images at several scales of the adapter; everything else is set in `generate`.

    strengths: scales, 0 is the base model; an empty list generates nothing. per_category, seeds: as in `generate`.
    """

    strengths: tuple[float, ...]
    per_category: int = 20
    seeds: int = 1

    def __post_init__(self):
        if len(set(self.strengths)) < len(self.strengths):
            raise ValueError(f"strengths is {list(self.strengths)}: name each strength once")
        for name in ("per_category", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a whole number of at least 1")


class ImageJob(NamedTuple):
    """One image to generate; `index` numbers the images of a prompt. Its key is `<prompt id>-<index>`."""

    prompt_id: str
    text: str
    index: int

    @property
    def key(self) -> str:
        """The name of the image in a tar."""
        return f"{self.prompt_id}-{self.index}"


def image_jobs(rows: list[dict], texts: list[str], seeds: int | list[int]) -> list[ImageJob]:
    """Makes `seeds` jobs for each row of a prompt list. texts: what the pipeline gets for each row. seeds: of all rows, or one per row."""
    counts = [seeds] * len(rows) if isinstance(seeds, int) else seeds
    return [ImageJob(row["id"], text, i) for row, text, count in zip(rows, texts, counts, strict=True) for i in range(count)]


def generate_images(pipe, jobs: list[ImageJob], resolution: int, config: GenerateConfig) -> Iterator[tuple[str, str, bytes]]:
    """Yields (its key, "png", bytes) for each job, in order."""
    for start in tqdm(range(0, len(jobs), config.batch_size), desc="generate", disable=None):
        yield from generate_batch(pipe, jobs[start : start + config.batch_size], resolution, config)


def generate_batch(pipe, batch: list[ImageJob], resolution: int, config: GenerateConfig) -> Iterator[tuple[str, str, bytes]]:
    """Generates one batch in a single call of the pipeline; yields as `generate_images` does."""
    side = resolution // pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, side, side)
    latents = torch.cat([initial_noise(shape, config.seed, job.prompt_id, job.index) for job in batch])  # (B, C, h, w)
    images = sample(
        pipe,
        [job.text for job in batch],
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        precision=config.precision,
        latents=latents.to(pipe.device),
        height=resolution,
        width=resolution,
    )
    for job, image in zip(batch, images, strict=True):
        buffer = BytesIO()
        image.save(buffer, "png")
        yield job.key, "png", buffer.getvalue()


def sample(
    pipe, prompts: list[str], *, num_inference_steps: int, guidance_scale: float, precision: str = "fp32", **pipeline_kwargs
) -> list[Image.Image]:
    """Calls the pipeline once. pipeline_kwargs: its other arguments, as `latents` or `generator`, `negative_prompt`, `height`, `width`."""
    with autocast(pipe.device.type, precision):
        return pipe(prompts, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, **pipeline_kwargs).images


def initial_noise(shape: tuple[int, ...], *key: object) -> Tensor:
    """Draws standard normal noise (fp32, CPU) that is a function of `key`: the same for every arm, batch and device."""
    seed = int.from_bytes(sha256(" ".join(map(str, key)).encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
