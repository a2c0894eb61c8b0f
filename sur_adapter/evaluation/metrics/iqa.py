"""Quality without a reference, by pyiqa: MUSIQ, TOPIQ, BRISQUE, aesthetic and some forty more, by the names that pyiqa gives them.

An extra of one's own choice, `pip install "sur-adapter[iqa]"`: pyiqa's licence, and that of several of its models, forbids commercial use.
"""

from functools import cache

import numpy as np
from PIL import Image

from sur_adapter.models.torch_utils import resolve_device


def measure(images: list[Image.Image], *, metric: str = "musiq") -> np.ndarray:
    """(N,), higher is better: the sign is turned where pyiqa's figure is better when lower. ValueError where pyiqa is not installed."""
    judge = _load(metric)
    values = [float(judge(image)) for image in images]
    return np.array(values) * (-1 if judge.lower_better else 1)


@cache
def _load(metric: str):
    try:
        import pyiqa
    except ImportError as error:
        raise ValueError(
            "params.yaml: evaluate.measures has iqa, which needs pyiqa: `pip install pyiqa` (not for commercial use), or leave iqa out"
        ) from error
    return pyiqa.create_metric(metric, device=resolve_device())
