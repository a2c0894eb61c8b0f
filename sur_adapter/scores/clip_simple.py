"""CLIP: does the picture show the plain sentence it was captioned with?"""

from collections.abc import Iterable

from PIL import Image

from sur_adapter.clip_score import Clip


def score(images: Iterable[Image.Image], texts: list[dict], *, model: str, batch: int = 100) -> list[float | None]:
    """max(cos, 0) for each picture; None where there is no text. texts: {"simple_prompt", "complex_prompt"} of each."""
    return Clip(model, "scores.clip_simple.model").score(images, [t["simple_prompt"] for t in texts], batch)
