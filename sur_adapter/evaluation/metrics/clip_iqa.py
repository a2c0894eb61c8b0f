"""How good a picture looks to a CLIP that is asked between two opposite sentences (after CLIP-IQA, Wang et al., arXiv 2207.12396).

p(good) = softmax(s · [cos(picture, good), cos(picture, bad)])₀, s the model's own scale. Unlike there, CLIP is as published, with its
position embeddings and one pair of sentences, so the figures compare with each other and with nobody else's.
"""

from functools import cache

import numpy as np
from PIL import Image
from scipy.special import softmax

from sur_adapter.models.clip import Clip


def measure(
    images: list[Image.Image],
    *,
    model: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    good: str = "Good photo.",
    bad: str = "Bad photo.",
) -> np.ndarray:
    """(N,), 0 … 1."""
    clip = _clip(model)
    likeness = clip.images(images) @ clip.texts([good, bad]).T  # (N, 2)
    return softmax(clip.model.logit_scale.exp().item() * likeness, -1)[:, 0]


@cache
def _clip(model: str) -> Clip:
    return Clip(model, "evaluate.measures.clip_iqa.model")
