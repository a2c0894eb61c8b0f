"""Metrics: numbers about images that no judge decides.

To add one, write `<name>.py` in this folder with the attributes of `ImageMetric` or of `SetMetric`, and name it in `evaluate.metrics` of
params.yaml. Numbers of image metrics are cached by image, settings, model files and the module's code.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike
from PIL.Image import Image


class ImageMetric(Protocol):
    """A module of this folder that gives one number per image."""

    Config: type  # frozen dataclass of its settings, the keys of params.yaml: evaluate.metrics.<name>; may be empty
    READS_PROMPTS: bool  # whether the number depends on the prompt

    def measure(self, images: Sequence[Image], prompts: Sequence[dict], config: Any) -> ArrayLike:
        """Measures each image, (N,); higher is better. images: RGB, of any size; prompts: the row of the prompt list of each image.

        Raises FileNotFoundError for a missing model, ValueError for a missing package.
        """


class SetMetric(Protocol):
    """A module of this folder that compares the images of two arms by their CLIP embeddings (`evaluate.clip`)."""

    Config: type  # frozen dataclass of its settings
    MIN_IMAGES: int  # in either set; with fewer the number is left out, and notes.json says so

    def compare(self, x: np.ndarray, y: np.ndarray) -> float:
        """Computes the distance of two sets of unit vectors, x (N, d) and y (M, d); 0 for equal sets."""
