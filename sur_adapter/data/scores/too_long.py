"""How many tokens of the keyword prompt exceed the text encoder's length and are ignored by the model; 0 if none."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from PIL import Image
from transformers import AutoTokenizer

from sur_adapter.data.prompts.cleaning import count_excess_tokens, effective_prompt
from sur_adapter.models.loading import NO_REMOTE_CODE, loading_errors


@dataclass(frozen=True)
class Config:
    """Section `scores.too_long` of params.yaml. model: a CLIP, a folder or a name on the hub, whose tokenizer counts."""

    model: str


def score(images: Iterable[Image.Image], rows: list[dict], config: Config) -> list[float | None]:
    """Returns the excess tokens of each keyword prompt, None if there is none. Images are not decoded."""
    prompts = [effective_prompt(row) for row in rows]
    excess = iter(count_excess_tokens([prompt for prompt in prompts if prompt is not None], _load_tokenizer(config.model)))
    return [None if prompt is None else float(next(excess)) for prompt in prompts]


@cache
def _load_tokenizer(model: str):
    """Loads the tokenizer once for all shards."""
    with loading_errors("scores.too_long.model", model, "tokenizer"):
        return AutoTokenizer.from_pretrained(model, **NO_REMOTE_CODE)
