"""CLIP: does the picture show what is said of it? One look at each picture serves every measure.

measures: `simple`, the plain sentence it was captioned with; `complex`, the keyword prompt it was found with.
"""

from collections.abc import Iterable
from itertools import islice

from PIL import Image

from sur_adapter.ahead import ahead
from sur_adapter.clip_score import Clip, agreement
from sur_adapter.schema import nearest

WORDS = {"simple": "simple_prompt", "complex": "complex_prompt"}


def score(images: Iterable[Image.Image], rows: list[dict], *, model: str, measures: list[str], batch: int = 100) -> dict[str, list]:
    """measure -> max(cos, 0) for each picture, None where there is no text. Raises ValueError for a measure that is none."""
    for name in measures:
        if name not in WORDS:
            raise ValueError(f"params.yaml: scores.clip.measures has {name!r}{nearest(name, WORDS)}; there are {', '.join(WORDS)}")
    clip, values = Clip(model, "scores.clip.model"), {name: [] for name in measures}
    images = iter(images)
    batches = ahead(list(islice(images, batch)) for _ in range(0, len(rows), batch))
    for start, pictures in zip(range(0, len(rows), batch), batches, strict=True):
        seen = clip.images(pictures)  # (B, d)
        for name in measures:
            values[name] += agreement(clip, seen, [row[WORDS[name]] for row in rows[start : start + batch]])
    return values
