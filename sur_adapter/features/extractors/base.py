"""The contract of a feature extractor: what one frozen model computes from the pairs, cached for training.

To add one, write a module here with `Config`, `NEEDS_IMAGES` and `extract`; its name is `cache --features NAME`, its section
`cache.NAME` of params.yaml. Where the features are one row per pair, `extract` calls `features.writer.extract_shards` with a
`RowExtractor`, which makes the shards resumable and runs them on the executor.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.models.config import ModelsConfig


class FeatureExtractor(Protocol):
    """A module of this package.

    Config: a frozen dataclass, the section `cache.NAME` of params.yaml. NEEDS_IMAGES: whether `extract` reads image bytes. TABLE =
    "sentences": rows are the kept sentences of the stage `sentences`; without it they are the kept pairs.
    """

    Config: type
    NEEDS_IMAGES: bool

    def extract(
        self, pairs: pd.DataFrame, images: ImageIndex | None, out: Path, config: Any, models: ModelsConfig, executor: ExecutorConfig
    ) -> None:
        """Writes the features of all pairs to the folder `out`; the same arguments give the same bytes.

        pairs: the kept rows, with id, split, simple_prompt and complex_prompt. images: id -> the bytes of the image, or None without
        NEEDS_IMAGES. Raises ValueError or FileNotFoundError, in one sentence, for invalid settings and missing models.
        """


class RowExtractor(Protocol):
    """Loads a frozen model when it is created, once per worker, and turns pairs into features.

    about: the names, weights and settings that made the features; it is written into every shard, and training compares it.
    """

    about: dict[str, Any]

    def __call__(self, rows: pd.DataFrame) -> dict[str, np.ndarray | list[np.ndarray]]:
        """Computes the features: column name -> (N, …) in the order of the rows, or N arrays of different shapes."""
