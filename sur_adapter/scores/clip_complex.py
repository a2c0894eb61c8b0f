"""CLIP: does the picture show the keyword prompt it was found with?"""

from collections.abc import Iterable

from PIL import Image

from sur_adapter.clip_score import Clip


def score(images: Iterable[Image.Image], texts: list[dict], *, model: str, batch: int = 100) -> list[float | None]:
    """max(cos, 0) for each picture; None where there is no text. texts: {"simple_prompt", "complex_prompt"} of each."""
    return Clip(model, "scores.clip_complex.model").score(images, [t["complex_prompt"] for t in texts], batch)
