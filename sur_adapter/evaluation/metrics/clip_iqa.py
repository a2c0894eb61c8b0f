"""Image quality by a CLIP that compares two opposite texts (after CLIP-IQA, Wang et al., arXiv 2207.12396).

p(good) = softmax(s · [cos(image, good), cos(image, bad)])₀, s the model's own scale. Unlike the paper, CLIP is used as published, with its
position embeddings and one pair of texts: values compare with each other, not with published ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from scipy.special import softmax

from sur_adapter.models.clip import CLIPEncoder

READS_PROMPTS = False


@dataclass(frozen=True)
class Config:
    model: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    good: str = "Good photo."
    bad: str = "Bad photo."


def measure(images: Sequence[Image.Image], prompts: Sequence[dict], config: Config) -> np.ndarray:
    """Returns the probability of `good` against `bad` for each image, (N,), 0 to 1."""
    clip = _load(config.model)
    similarity = clip.encode_images(images) @ clip.encode_texts([config.good, config.bad]).T  # (N, 2)
    return softmax(clip.model.logit_scale.exp().item() * similarity, -1)[:, 0]


@cache
def _load(model: str) -> CLIPEncoder:
    return CLIPEncoder(model, "evaluate.metrics.clip_iqa.model")
