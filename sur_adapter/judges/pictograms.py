"""The miniature's own judge: pixels are read back to things, colours, counts and poses, without a model."""

from PIL import Image

from miniature.judge import shows


def verdicts(images: list[Image.Image], prompts: list[dict]) -> list[bool]:
    return [judge(image, prompt) for image, prompt in zip(images, prompts, strict=True)]


def judge(image: Image.Image, prompt: dict) -> bool:
    """Whether the picture shows what `prompt["include"]` lists, all of it and nothing besides."""
    if "include" not in prompt:
        raise ValueError(f"prompt {prompt['id']!r} has no `include`, which `pictograms` reads: add it, or set evaluate.judge to null")
    return shows(image, prompt["include"])
