"""No-reference image quality by pyiqa: MUSIQ, TOPIQ, BRISQUE, aesthetic scores and some forty more, by pyiqa's names.

An optional extra, `pip install "sur-adapter[iqa]"`: the licences of pyiqa and of several of its models forbid commercial use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from sur_adapter.models.torch_utils import resolve_device

READS_PROMPTS = False


@dataclass(frozen=True)
class Config:
    metric: str = "musiq"  # pyiqa's name


def measure(images: Sequence[Image.Image], prompts: Sequence[dict], config: Config) -> np.ndarray:
    """Returns pyiqa's score of each image, (N,), negated where pyiqa's lower is better. Raises ValueError if pyiqa is not installed."""
    metric = _load(config.metric)
    values = [float(metric(image)) for image in images]
    return np.array(values) * (-1 if metric.lower_better else 1)


@cache
def _load(metric: str):
    try:
        import pyiqa
    except ImportError as error:
        raise ValueError(
            "params.yaml: evaluate.metrics has iqa, which needs pyiqa: `pip install pyiqa` (not for commercial use), or remove iqa"
        ) from error
    return pyiqa.create_metric(metric, device=resolve_device())
