"""CLIP: does the picture show what is said of it? One look at each picture serves every measure.

measures: `simple`, the plain sentence it was captioned with; `complex`, the keyword prompt it was found with; `aesthetic`, how well
it would please, by a linear head on the picture's unit vector: a safetensors file with `weight` (1, d) and `bias` (1).
"""

from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sur_adapter.data.prompts.cleaning import words
from sur_adapter.io.prefetch import prefetch
from sur_adapter.models.clip import Clip, agreement
from sur_adapter.registry import did_you_mean

WORDS = {"simple": lambda row: row["simple_prompt"], "complex": words}
KNOWN = (*WORDS, "aesthetic")


def score(
    images: Iterable[Image.Image], rows: list[dict], *, model: str, measures: list[str], batch: int = 100, head: str | None = None
) -> dict[str, list]:
    """measure -> max(cos, 0) for each picture, None where there is no text; `aesthetic`: what the file `head` makes of it.

    Raises ValueError for a measure that is none, and for one that lacks its head.
    """
    for name in measures:
        if name not in KNOWN:
            raise ValueError(f"params.yaml: scores.clip.measures has {name!r}{did_you_mean(name, KNOWN)}; there are {', '.join(KNOWN)}")
    clip, values = _clip(model), {name: [] for name in measures}
    please = _head(head, clip) if "aesthetic" in measures else None
    images = iter(images)
    batches = prefetch(list(islice(images, batch)) for _ in range(0, len(rows), batch))
    for start, pictures in zip(range(0, len(rows), batch), batches, strict=True):
        seen = clip.images(pictures)  # (B, d)
        for name in measures:
            if name in WORDS:
                values[name] += agreement(clip, seen, [WORDS[name](row) for row in rows[start : start + batch]])
            else:
                values[name] += please(seen).tolist()
    return values


@cache
def _clip(model: str) -> Clip:
    """Loaded once, though shards come one at a time."""
    return Clip(model, "scores.clip.model")


def _head(file: str | None, clip: Clip) -> Callable[[np.ndarray], np.ndarray]:
    """Unit vectors (N, d) -> (N,)."""
    if not file or not Path(file).is_file():
        raise FileNotFoundError(
            f"params.yaml: scores.clip.head is {file!r}, which is no file: name a safetensors file with weight and bias"
        )
    width = clip.model.config.projection_dim
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"params.yaml: scores.clip.head {file} cannot be read as safetensors ({error}): fetch it again") from error
    if {name: tensor.shape for name, tensor in tensors.items()} != {"weight": (1, width), "bias": (1,)}:
        shapes = ", ".join(f"{name} {tensor.shape}" for name, tensor in sorted(tensors.items()))
        raise ValueError(f"params.yaml: scores.clip.head {file} holds {shapes}: this CLIP needs weight (1, {width}) and bias (1,)")
    return lambda vectors: vectors @ tensors["weight"][0] + tensors["bias"][0]
