"""How many tokens of the keyword prompt exceed the text encoder's length and are ignored by the model; 0 if none."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from PIL import Image

from sur_adapter.data.prompts.cleaning import count_excess_tokens, effective_prompt
from sur_adapter.models.loading import NO_REMOTE_CODE, loading_errors

CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")  # whose tokenizer.json holds all that they do


@dataclass(frozen=True)
class Config:
    """Section `scores.too_long` of params.yaml. model: a CLIP, a folder or a name on the hub, whose tokenizer counts."""

    model: str


def score(images: Iterable[Image.Image], rows: list[dict], config: Config) -> list[float | None]:
    """Returns the excess tokens of each keyword prompt, None if there is none. Images are not decoded."""
    prompts = [effective_prompt(row) for row in rows]
    excess = iter(_load_counter(config.model)([prompt for prompt in prompts if prompt is not None]))
    return [None if prompt is None else float(next(excess)) for prompt in prompts]


@cache
def _load_counter(model: str) -> Callable[[list[str]], list[int]]:
    """Loads the tokenizer once for all shards. Returns a function from prompts to their excess tokens.

    The one of a CLIP in a folder is read from its file; others are loaded by transformers, which imports torch and takes seconds.
    """
    with loading_errors("scores.too_long.model", model, "tokenizer"):
        file, settings = Path(model, "tokenizer.json"), Path(model, "tokenizer_config.json")
        values = json.loads(settings.read_text(encoding="utf-8")) if file.is_file() and settings.is_file() else {}
        if values.get("tokenizer_class") in CLIP_TOKENIZERS and "model_max_length" in values:
            return _counter_of_file(file, values["model_max_length"])
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model, **NO_REMOTE_CODE)
    return partial(count_excess_tokens, tokenizer=tokenizer)


def _counter_of_file(file: Path, length: int) -> Callable[[list[str]], list[int]]:
    """Reads a tokenizer.json; returns the same function as `_load_counter`. Raises ValueError if it is corrupt."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # of no class of its own
        raise ValueError(str(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda prompts: [max(0, len(encoding) - length) for encoding in tokenizer.encode_batch(prompts)]
