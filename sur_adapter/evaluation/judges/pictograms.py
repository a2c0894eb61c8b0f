"""The miniature's own judge: pixels are read back to things, colours, counts and poses, without a model."""

from math import isnan, nan

from PIL import Image

from miniature.judge import read, shows
from sur_adapter.evaluation.counting import asked_for


def verdicts(images: list[Image.Image], prompts: list[dict]) -> list[bool]:
    return [judge(image, prompt) for image, prompt in zip(images, prompts, strict=True)]


def judge(image: Image.Image, prompt: dict) -> bool:
    """Whether the picture shows what `prompt["include"]` lists, all of it and nothing besides."""
    if "include" not in prompt:
        raise ValueError(f"prompt {prompt['id']!r} has no `include`, which `pictograms` reads: add it, or set evaluate.judge to null")
    return shows(image, prompt["include"])


def counts(images: list[Image.Image], prompts: list[dict]) -> list[float]:
    """How many there are of the things that a prompt asks a number of, whatever their colour; NaN where it asks for none."""
    asked = [asked_for(prompt) for prompt in prompts]
    return [
        nan if isnan(wanted) else float(sum(found["count"] for found in read(image) if found["class"] == prompt["include"][0]["class"]))
        for image, prompt, wanted in zip(images, prompts, asked, strict=True)
    ]
