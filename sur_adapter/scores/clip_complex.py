"""CLIP: does the picture show the keyword prompt it was found with?"""

from collections.abc import Iterable

from PIL import Image

from sur_adapter.clip_score import Clip
from sur_adapter.wording import words


def score(images: Iterable[Image.Image], texts: list[dict], *, model: str, batch: int = 100) -> list[float | None]:
    """max(cos, 0) for each picture; None where there is no text. texts: {"complex_prompt", "clean_prompt"} of each."""
    return Clip(model, "scores.clip_complex.model").score(images, [words(t) for t in texts], batch)
