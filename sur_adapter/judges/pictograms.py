"""The miniature's own judge: pixels are read back to things, colours, counts and poses, without a model."""

from PIL import Image

from miniature.judge import read, shows


def judge(image: Image.Image, prompt: dict) -> bool:
    """Whether the picture shows what `prompt["include"]` lists, all of it and nothing besides."""
    if "include" not in prompt:
        raise ValueError(f"prompt {prompt['id']!r} has no `include`, which `pictograms` reads: add it, or set evaluate.judge to null")
    return shows(image, prompt["include"])


def counted(image: Image.Image, prompt: dict) -> int:
    """How many things there are of the kind that `prompt["include"]` lists first, whatever their colour."""
    return sum(found["count"] for found in read(image) if found["class"] == prompt["include"][0]["class"])
