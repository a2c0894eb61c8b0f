"""What is asked of a Stable Diffusion model that stays frozen: its parts, its words, its noise."""

from hashlib import sha256
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor


def device(name: str = "auto") -> str:
    """ "auto" is the GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def part(model: str, cls, subfolder: str):
    """One frozen part of a diffusion model, from a folder or the hub. FileNotFoundError with the cure where there is none."""
    try:
        return cls.from_pretrained(model, subfolder=subfolder)
    except OSError as error:
        raise missing(model, subfolder) from error


def pipeline(model: str) -> StableDiffusionPipeline:
    try:
        pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, requires_safety_checker=False)
    except (OSError, ValueError) as error:  # diffusers raises either, by how the name is spelt
        raise missing(model, "model_index.json") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def missing(model: str, what: str) -> FileNotFoundError:
    where = "the folder is there, but not that" if Path(model).is_dir() else "there is no such folder, and no model of that name on disk"
    return FileNotFoundError(
        f"params.yaml: models.diffusion is {model!r}, of which {what} cannot be loaded ({where}): name a diffusers model"
    )


@torch.no_grad()
def encode(tokenizer, text_encoder, prompts: list[str]) -> Tensor:
    """E(p): the last hidden states, padded as Stable Diffusion pads, [B, L, d]."""
    ids = tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    return text_encoder(ids.to(text_encoder.device))[0]


def noise(shape: tuple[int, ...], *names: object) -> Tensor:
    """Normal noise made on the CPU from its name: the same for every arm, batch and device."""
    seed = int.from_bytes(sha256(" ".join(map(str, names)).encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
