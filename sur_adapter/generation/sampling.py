"""Pictures of prompts, each on noise that knows its prompt's id and its seed alone: neither the arm nor the batch."""

from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO

import torch
from torch import Tensor
from tqdm import tqdm

from sur_adapter.io.shards import chunks
from sur_adapter.models.torch_utils import autocast

Job = tuple[str, str, int]


def choose(rows: list[dict], per_category: int) -> list[dict]:
    """The first so many of each category."""
    taken: dict[str, int] = {}
    chosen = []
    for row in rows:
        taken[row["category"]] = taken.get(row["category"], 0) + 1
        if taken[row["category"]] <= per_category:
            chosen.append(row)
    return chosen


def draw(
    pipe,
    rows: list[dict],
    texts: list[str],
    resolution: int,
    *,
    seeds: int,
    steps: int,
    guidance: float,
    batch: int = 4,
    precision: str = "fp32",
    seed: int = 0,
) -> Iterator[tuple[str, str, bytes]]:
    """(key, "png", bytes) for every prompt and seed; noise is made from prompt id and seed alone, and stays fp32 between the steps."""
    how = {"steps": steps, "guidance": guidance, "precision": precision, "seed": seed}
    for some in tqdm(chunks(jobs(rows, texts, seeds), batch), desc="generate", disable=None):
        yield from paint(pipe, some, resolution, **how)


def jobs(rows: list[dict], texts: list[str], seeds: int) -> list[Job]:
    """A picture each: the prompt's id, its words, the number of the seed."""
    return [(row["id"], words, k) for row, words in zip(rows, texts, strict=True) for k in range(seeds)]


def paint(
    pipe, some: list[Job], resolution: int, *, steps: int, guidance: float, precision: str = "fp32", seed: int = 0
) -> Iterator[tuple[str, str, bytes]]:
    """The pictures of one batch, as of `draw`."""
    side = resolution // pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, side, side)
    latents = torch.cat([noise(shape, seed, name, k) for name, _, k in some]).to(pipe.device)
    with autocast(pipe.device.type, precision):
        images = pipe(
            [words for _, words, _ in some],
            latents=latents,
            height=resolution,
            width=resolution,
            num_inference_steps=steps,
            guidance_scale=guidance,
        ).images
    for (name, _, k), image in zip(some, images, strict=True):
        buffer = BytesIO()
        image.save(buffer, "png")
        yield f"{name}-{k}", "png", buffer.getvalue()


def noise(shape: tuple[int, ...], *names: object) -> Tensor:
    """Normal noise made on the CPU from its name: the same for every arm, batch and device."""
    seed = int.from_bytes(sha256(" ".join(map(str, names)).encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
