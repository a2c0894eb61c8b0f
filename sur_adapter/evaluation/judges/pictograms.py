"""The miniature's own judge: reads classes, colours, counts and poses back from the pixels, without a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

from PIL import Image

from miniature.judge import read, shows
from sur_adapter.evaluation.counting import requested_count


@dataclass(frozen=True)
class Config:
    """No settings."""


def verdicts(images: Sequence[Image.Image], prompts: Sequence[dict], config: Config) -> list[bool]:
    """Decides whether each image shows what its prompt's `include` lists, all of it and nothing else."""
    for prompt in prompts:
        if "include" not in prompt:
            raise ValueError(f"prompt {prompt['id']!r} has no `include`, which `pictograms` reads: add it, or set evaluate.judge to null")
    return [shows(image, prompt["include"]) for image, prompt in zip(images, prompts, strict=True)]


def counts(images: Sequence[Image.Image], prompts: Sequence[dict], config: Config) -> list[float]:
    """Counts the things of the requested class in each image, whatever their colour; NaN where the prompt names no single number."""
    requested = [requested_count(prompt) for prompt in prompts]
    return [
        nan if isnan(number) else float(sum(thing["count"] for thing in read(image) if thing["class"] == prompt["include"][0]["class"]))
        for image, prompt, number in zip(images, prompts, requested, strict=True)
    ]
