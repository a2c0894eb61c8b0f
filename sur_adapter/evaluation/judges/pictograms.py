"""The miniature's own judge: reads classes, colours, counts and poses back from the pixels, without a model.

Reading an image is what takes time, a few milliseconds: verdict and count come from one reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

from PIL import Image

from miniature.judge import ERRORS, STRICTNESS, agree, error, read
from miniature.scenes import COLORS
from miniature.silhouettes import POSES
from sur_adapter.evaluation.confusion import requested_count

NOTHING = "none"  # no thing of the class is seen
FINDINGS = {
    "error": ERRORS,
    "asked_color": tuple(COLORS),  # of the first thing that the prompt asks for
    "seen_color": (*COLORS, NOTHING),
    "asked_pose": tuple(POSES),
    "seen_pose": (*POSES, NOTHING),
}


@dataclass(frozen=True)
class Config:
    """params.yaml: evaluate.judge.pictograms. strictness: loose, default or strict, of miniature.judge."""

    strictness: str = "default"

    def __post_init__(self):
        if self.strictness not in STRICTNESS:
            raise ValueError(f"strictness is {self.strictness!r}: choose {', '.join(STRICTNESS)}")


def verdicts(images: Sequence[Image.Image], prompts: Sequence[dict], config: Config) -> list[tuple[float, ...]]:
    """Judges each image. Returns (N, 3 + len(FINDINGS)).

    Columns: whether it shows what its prompt's `include` lists, all of it and nothing else; NaN; the number of things of the requested
    class, whatever their colour, or NaN where the prompt names no single number; FINDINGS.
    """
    for prompt in prompts:
        if "include" not in prompt:
            raise ValueError(f"prompt {prompt['id']!r} has no `include`, which `pictograms` reads: add it, or set evaluate.judge to null")
    return [_verdict(read(image, config.strictness), prompt) for image, prompt in zip(images, prompts, strict=True)]


def _verdict(reading: list[dict], prompt: dict) -> tuple[float, ...]:
    include = prompt["include"]
    of_class = [entry for entry in reading if include and entry["class"] == include[0]["class"]]
    counted = nan if isnan(requested_count(prompt)) else float(sum(entry["count"] for entry in of_class))
    found = {"error": error(reading, include)}
    for kind in ("color", "pose"):
        if include and kind in include[0]:
            found[f"asked_{kind}"] = include[0][kind]
            found[f"seen_{kind}"] = of_class[0].get(kind, NOTHING) if of_class else NOTHING
    codes = [float(names.index(found[name])) if name in found else nan for name, names in FINDINGS.items()]
    return agree(reading, include), nan, counted, *codes
