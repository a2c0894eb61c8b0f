"""sweep: the pictures of some prompts by the adapter's strength, on the noise of the arms."""

from math import isfinite
from pathlib import Path

import sur_adapter.models.stable_diffusion as diffusion
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.config import settings
from sur_adapter.generation.attach import attach
from sur_adapter.generation.prompts import read_prompts
from sur_adapter.generation.sampling import choose, draw
from sur_adapter.io.shards import write_tar
from sur_adapter.models.torch_utils import device


def sweep(prompts: Path, out: Path, adapter: Path, *, models: dict, generate: dict, sweep: dict) -> None:
    """A folder for each strength, named by it. strengths, per_category and seeds are of `sweep`, all else of `generate`."""
    strengths, per_category, seeds = numbers(**settings(numbers, sweep, "sweep"))
    drawing = {k: v for k, v in generate.items() if k not in ("prompts", "per_category")} | {"seeds": seeds}
    options = settings(draw, drawing, "generate")
    rows = choose(read_prompts(prompts), per_category)
    out.mkdir(parents=True, exist_ok=True)
    if not strengths:
        return
    pipe = diffusion.pipeline(models["diffusion"]).to(device())
    handle = attach(pipe, SURAdapter.from_pretrained(adapter))
    for handle.strength in strengths:
        pictures = draw(pipe, rows, [row["prompt"] for row in rows], models["resolution"], **options)
        write_tar(out / f"{handle.strength:g}" / "images-000000.tar", pictures)


def numbers(*, strengths: list, per_category: int = 20, seeds: int = 1) -> tuple[list[float], int, int]:
    """The keys of params.yaml: sweep. strengths: eta, each once, 0 the base model; an empty list draws nothing. Raises ValueError."""
    if not isinstance(strengths, list) or not all(isinstance(s, (int, float)) and isfinite(s) for s in strengths):
        raise ValueError(f"params.yaml: sweep.strengths is {strengths!r}: give a list of numbers, such as [0, 0.5, 1, 1.5]")
    if len(set(strengths)) < len(strengths):
        raise ValueError(f"params.yaml: sweep.strengths is {strengths}: name each strength once")
    for name, value in (("per_category", per_category), ("seeds", seeds)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"params.yaml: sweep.{name} is {value!r}: give a whole number of at least 1")
    return strengths, per_category, seeds
