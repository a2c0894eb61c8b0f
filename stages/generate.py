"""generate: one arm's pictures. Arms share prompts, seeds and the very noise."""

from io import BytesIO
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

import sur_adapter.diffusion as diffusion
from sur_adapter.adapter import SURAdapter
from sur_adapter.compute import autocast, device
from sur_adapter.guest import attach
from sur_adapter.prompts import read_prompts
from sur_adapter.records import chunks, write_table, write_tar
from sur_adapter.schema import settings

STOCK = "masterpiece, best quality, highly detailed, sharp focus, 8k"  # what people append by hand today
ARMS = ("baseline", "adapter", "complex", "expansion")


def generate(prompts: Path, out: Path, adapter: Path | None = None, *, models: dict, generate: dict) -> None:
    arm = out.name
    if arm not in ARMS:
        raise ValueError(f"there is no arm {arm!r}: name one of {', '.join(ARMS)}")
    options = settings(draw, {k: v for k, v in generate.items() if k not in ("prompts", "per_category")}, "generate")
    rows = choose(read_prompts(prompts), generate["per_category"])
    texts = [text(arm, row) for row in rows]
    pipe = diffusion.pipeline(models["diffusion"]).to(device())
    if adapter:
        attach(pipe, SURAdapter.from_pretrained(adapter))
    write_tar(out / "images-000000.tar", draw(pipe, rows, texts, models["resolution"], **options))
    table = pd.DataFrame({"id": [r["id"] for r in rows], "category": [r["category"] for r in rows], "arm": arm, "text": texts})
    write_table(out / "prompts.parquet", table)


def choose(rows: list[dict], per_category: int) -> list[dict]:
    """The first so many of each category."""
    taken: dict[str, int] = {}
    chosen = []
    for row in rows:
        taken[row["category"]] = taken.get(row["category"], 0) + 1
        if taken[row["category"]] <= per_category:
            chosen.append(row)
    return chosen


def text(arm: str, row: dict) -> str:
    if arm == "complex":
        return row.get("complex_prompt") or row["prompt"]
    return f"{row['prompt']}, {STOCK}" if arm == "expansion" else row["prompt"]


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
):
    """(key, "png", bytes) for every prompt and seed; noise is made from prompt id and seed alone, and stays fp32 between the steps."""
    shape = (1, pipe.unet.config.in_channels, resolution // pipe.vae_scale_factor, resolution // pipe.vae_scale_factor)
    jobs = [(row["id"], words, k) for row, words in zip(rows, texts, strict=True) for k in range(seeds)]
    for some in tqdm(chunks(jobs, batch), desc="generate", disable=None):
        latents = torch.cat([diffusion.noise(shape, seed, name, k) for name, _, k in some]).to(pipe.device)
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
