"""A perceptual hash: images that look the same differ in few of its 1728 bits, whatever their encoding.

Measured on 3000 images of the miniature: a copy saved as a larger JPEG differs in at most 8 bits, 98 % of the copies in at most 6; of 4
million pairs with different contents, 2 differ in 6 bits or fewer. With the single threshold 24 there are 174 such pairs, and orange equals
red. Of 26 real images, copies differ in at most 8 bits, the closest pair of others in 73.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

CELLS = 12  # gradient cells each way
THRESHOLDS = (24, 72)  # of 255: JPEG noise on a flat ground stays below the first; the second separates orange from yellow


@dataclass(frozen=True)
class Config:
    """The score has no settings."""


def score(images: Iterable[Image.Image], rows: list[dict], config: Config) -> list[str]:
    """Returns 1728 bits as 432 hex digits for each image."""
    return [phash(image) for image in images]


def phash(image: Image.Image) -> str:
    """Computes a signed dHash (Krawetz 2013) of each color channel: if a cell is clearly darker, or lighter, than its right neighbour."""
    small = np.asarray(image.convert("RGB").resize((CELLS + 1, CELLS), Image.Resampling.LANCZOS), np.int16)  # (12, 13, 3)
    gradient = small[:, 1:] - small[:, :-1]  # (12, 12, 3)
    return np.packbits([sign * gradient > threshold for threshold in THRESHOLDS for sign in (1, -1)]).tobytes().hex()
