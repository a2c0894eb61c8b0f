"""Scores: one module per score, and its file name is its name in section `scores` of params.yaml.

To add one, write `<name>.py` in this folder with a frozen dataclass `Config` (its keys in params.yaml, empty if it has none) and a function
`score` as below. A score measures; only `filter` decides, by `filter.<score>`, the lowest value that is kept.
"""

from collections.abc import Iterable
from typing import Any, Protocol

from PIL import Image


class Score(Protocol):
    """A module of this package."""

    Config: type  # a frozen dataclass

    def score(self, images: Iterable[Image.Image], rows: list[dict], config: Any) -> list[float | str | None] | dict[str, list]:
        """Scores the rows of one shard.

        images: N images (RGB), in the order of the rows; they are decoded on iteration, so a score that needs none costs no decoding.
        rows: N dicts of the columns of `RAW_SCHEMA`, with `simple_prompt` as captioned; None where there is no value.
        config: a `Config`.

        Returns N numbers or texts, None where there is nothing to measure. A score of several measures has a key `measures`, their names,
        and returns a dict of such lists, one for each: they become the scores `<name>_<measure>`. Raises ValueError or FileNotFoundError,
        with the key of params.yaml, if the configuration cannot be used.
        """
        ...
