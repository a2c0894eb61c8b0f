"""What the text encoder makes of both prompts: `{split}-000000.parquet`, id, simple [L, d], complex [L, d], fp16, and
simple_length, complex_length, the tokens that are no padding.

Of SDXL, both encoders side by side, and the second's pooled vectors: simple_pooled [p], complex_pooled [p].
"""

from functools import partial
from pathlib import Path

import pandas as pd
import torch

from sur_adapter.data.prompts.cleaning import effective_prompt
from sur_adapter.features.writer import fill, identity, numbers
from sur_adapter.io.shards import batched
from sur_adapter.models.fingerprint import fingerprint
from sur_adapter.models.stable_diffusion import TextEncoders
from sur_adapter.models.torch_utils import resolve_device

CURE = "name another model in params.yaml: models.diffusion"


def write(pairs: pd.DataFrame, pictures, out: Path, models: dict, executor: dict | None = None, *, batch: int = 64) -> None:
    model = models["diffusion"]
    fill(out, pairs, partial(Words, model, batch), lambda ids: files(model), {"batch": batch}, __file__, executor)


def files(model: str) -> list[str]:
    """What is read of a model's folder, as far as it has them."""
    return [f"{model}/{part}" for part in ("model_index.json", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")]


class Words:
    """The text encoders of a model, asked for both prompts."""

    def __init__(self, model: str, batch: int):
        self.encoders, self.batch = TextEncoders(model, resolve_device()), batch
        modules = self.encoders.modules
        self.about = {"base_model": model, "text_encoder_weights": identity(*modules.values())}
        self.about |= {name: fingerprint(module) for name, module in modules.items()}

    def __call__(self, rows: pd.DataFrame) -> dict:
        read = {"simple": rows["simple_prompt"].tolist(), "complex": [effective_prompt(row) for row in rows.to_dict("records")]}
        return {name: v for column, prompts in read.items() for name, v in encode(self.encoders, column, prompts, self.batch).items()}


def encode(encoders: TextEncoders, column: str, prompts: list[str], batch: int) -> dict:
    """column -> [N, L, d], and column_pooled -> [N, p] where there is one, fp16; column_length -> [N]."""
    states, pooled = zip(*((s.half().cpu(), p) for s, p in map(encoders, batched(prompts, batch))), strict=True)
    result = {column: numbers(torch.cat(states), "fp16", CURE), f"{column}_length": encoders.lengths(prompts).numpy()}  # (N, L, d), (N,)
    return result if pooled[0] is None else result | {f"{column}_pooled": numbers(torch.cat(pooled), "fp16", CURE)}
