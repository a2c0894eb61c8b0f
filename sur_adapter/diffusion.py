"""What is asked of a Stable Diffusion model that stays frozen: its parts, its words, its noise."""

from hashlib import sha256

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from sur_adapter.schema import named


def part(model: str, cls, subfolder: str):
    """One frozen part of a diffusion model, from a folder or the hub. FileNotFoundError with the cure where there is none."""
    with named("models.diffusion", model, subfolder):
        return cls.from_pretrained(model, subfolder=subfolder)


def pipeline(model: str) -> StableDiffusionPipeline:
    with named("models.diffusion", model, "pipeline"):
        pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def encode(tokenizer, text_encoder, prompts: list[str]) -> Tensor:
    """E(p): the last hidden states, padded as Stable Diffusion pads, [B, L, d]."""
    ids = tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    return text_encoder(ids.to(text_encoder.device))[0]


def noise(shape: tuple[int, ...], *names: object) -> Tensor:
    """Normal noise made on the CPU from its name: the same for every arm, batch and device."""
    seed = int.from_bytes(sha256(" ".join(map(str, names)).encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
