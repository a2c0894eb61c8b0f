"""Pixels of the shorter side, as measured by the crawl."""

from collections.abc import Iterable

from PIL import Image


def score(images: Iterable[Image.Image], rows: list[dict]) -> list[float]:
    return [float(min(row["width"], row["height"])) for row in rows]
