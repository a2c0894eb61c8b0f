"""How many tokens of the keyword prompt lie beyond the text encoder's length: the model draws without them. 0 where all are read."""

from collections.abc import Iterable
from functools import cache

from PIL import Image
from transformers import AutoTokenizer

from sur_adapter.data.prompts.cleaning import too_long, words
from sur_adapter.models.loading import NO_REMOTE_CODE, loading_errors


def score(images: Iterable[Image.Image], rows: list[dict], *, model: str) -> list[float | None]:
    """model: whose tokenizer counts, a CLIP. None where there is no prompt. Pictures are not looked at."""
    prompts = [words(row) for row in rows]
    beyond = iter(too_long([p for p in prompts if p is not None], _tokenizer(model)))
    return [None if p is None else float(next(beyond)) for p in prompts]


@cache
def _tokenizer(model: str):
    """Loaded once, though shards come one at a time."""
    with loading_errors("scores.too_long.model", model, "tokenizer"):
        return AutoTokenizer.from_pretrained(model, **NO_REMOTE_CODE)
