"""The miniature's own judge: reads classes, colours, counts and poses back from the pixels, without a model.

Reading an image is what takes time, a few milliseconds: verdict and count come from one reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

from PIL import Image

from miniature.judge import STRICTNESS, agree, read
from sur_adapter.evaluation.counting import requested_count


@dataclass(frozen=True)
class Config:
    """params.yaml: evaluate.judge.pictograms. strictness: loose, default or strict, of miniature.judge."""

    strictness: str = "default"

    def __post_init__(self):
        if self.strictness not in STRICTNESS:
            raise ValueError(f"strictness is {self.strictness!r}: choose {', '.join(STRICTNESS)}")


def verdicts(images: Sequence[Image.Image], prompts: Sequence[dict], config: Config) -> list[tuple[bool, float, float]]:
    """Judges each image. Returns (N, 3): whether it shows what its prompt's `include` lists, all of it and nothing else; NaN; the number of
    things of the requested class, whatever their colour, or NaN where the prompt names no single number."""
    for prompt in prompts:
        if "include" not in prompt:
            raise ValueError(f"prompt {prompt['id']!r} has no `include`, which `pictograms` reads: add it, or set evaluate.judge to null")
    return [_verdict(read(image, config.strictness), prompt) for image, prompt in zip(images, prompts, strict=True)]


def _verdict(reading: list[dict], prompt: dict) -> tuple[bool, float, float]:
    include = prompt["include"]
    of_class = nan if isnan(requested_count(prompt)) else float(sum(t["count"] for t in reading if t["class"] == include[0]["class"]))
    return agree(reading, include), nan, of_class
