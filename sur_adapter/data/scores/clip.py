"""CLIP scores: how well an image agrees with its texts. Each image is encoded once for all measures.

simple: the agreement with each caption. complex: with the keyword prompt. aesthetic: a linear head on the image's unit vector.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sur_adapter.data.prompts.cleaning import effective_prompt
from sur_adapter.models.clip import CLIPEncoder, text_scores


@dataclass(frozen=True)
class Config:
    """Section `scores.clip` of params.yaml.

    model: a CLIP, a folder or a name on the hub. measures: those to compute. batch_size: images. head: for
    `aesthetic`, a safetensors file with `weight` (1, d) and `bias` (1). precision: of the CLIP; bf16 is fp32 on a CPU without bf16
    instructions.
    """

    model: str
    measures: tuple[Literal["simple", "complex", "aesthetic"], ...]
    batch_size: int = 100
    head: str | None = None
    precision: Literal["fp32", "bf16"] = "bf16"

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: give at least 1")
        if not self.measures:
            raise ValueError("measures is empty: choose simple, complex or aesthetic, or remove the section")


def score(images: Iterable[Image.Image], rows: list[dict], config: Config) -> dict[str, list]:
    """Returns measure -> N values: max(cos, 0), None if there is no text; for `simple` a list for each image; for `aesthetic`, the output
    of the head."""
    encoder, values = _load_encoder(config.model, config.precision), {}
    head = _load_head(config.head, encoder) if "aesthetic" in config.measures else None
    image_embeds = encoder.encode_images(list(images))  # (N, d)
    for name in config.measures:
        if name == "simple":
            values[name] = _caption_scores(encoder, image_embeds, [row["captions"] for row in rows])
        elif name == "complex":
            values[name] = text_scores(encoder, image_embeds, [effective_prompt(row) for row in rows])
        else:
            values[name] = head(image_embeds).tolist()
    return values


def _caption_scores(encoder: CLIPEncoder, image_embeds: np.ndarray, captions: list[list[str | None]]) -> list[list[float | None]]:
    """Scores each caption against its image. image_embeds: (B, d); captions: of each image."""
    position = [k for k, texts in enumerate(captions) for _ in texts]  # of the image of each caption
    scores = iter(text_scores(encoder, image_embeds[position], [text for texts in captions for text in texts]))
    return [[next(scores) for _ in texts] for texts in captions]


@cache
def _load_encoder(model: str, precision: str) -> CLIPEncoder:
    """Loads the model once for all shards."""
    return CLIPEncoder(model, "scores.clip.model", precision)


def _load_head(file: str | None, encoder: CLIPEncoder) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from unit vectors (N, d) to scores (N,)."""
    if not file or not Path(file).is_file():
        raise FileNotFoundError(
            f"params.yaml: scores.clip.head is {file!r}, which is not a file: name a safetensors file with weight and bias"
        )
    width = encoder.model.config.projection_dim
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"params.yaml: scores.clip.head {file} cannot be read as safetensors ({error}): fetch it again") from error
    if {name: tensor.shape for name, tensor in tensors.items()} != {"weight": (1, width), "bias": (1,)}:
        shapes = ", ".join(f"{name} {tensor.shape}" for name, tensor in sorted(tensors.items()))
        raise ValueError(f"params.yaml: scores.clip.head {file} holds {shapes}: this CLIP needs weight (1, {width}) and bias (1,)")
    return lambda image_embeds: image_embeds @ tensors["weight"][0] + tensors["bias"][0]
