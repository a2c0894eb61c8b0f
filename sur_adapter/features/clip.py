"""What the text encoder makes of both prompts: `{split}-000000.parquet`, id, simple [L, d], complex [L, d], fp16, and
simple_length, complex_length, the tokens that are no padding.

Of SDXL, both encoders side by side, and the second's pooled vectors: simple_pooled [p], complex_pooled [p].
"""

from pathlib import Path

import pandas as pd
import torch

from sur_adapter.adapter import fingerprint
from sur_adapter.compute import device
from sur_adapter.diffusion import TextEncoders
from sur_adapter.lane import fill, identity, numbers
from sur_adapter.records import chunks
from sur_adapter.wording import words

CURE = "name another model in params.yaml: models.diffusion"


def write(pairs: pd.DataFrame, pictures, out: Path, models: dict, *, batch: int = 64) -> None:
    encoders = TextEncoders(models["diffusion"], device())
    about = {"base_model": models["diffusion"], "text_encoder_weights": identity(*encoders.modules.values())}
    about |= {name: fingerprint(module) for name, module in encoders.modules.items()}

    def make(_name: str, rows: pd.DataFrame, _done: Path) -> dict:
        read = {"simple": rows["simple_prompt"].tolist(), "complex": [words(row) for row in rows.to_dict("records")]}
        return {name: values for column, prompts in read.items() for name, values in encode(encoders, column, prompts, batch).items()}

    fill(out, pairs, about, {"batch": batch}, make)


def encode(encoders: TextEncoders, column: str, prompts: list[str], batch: int) -> dict:
    """column -> [N, L, d], and column_pooled -> [N, p] where there is one, fp16; column_length -> [N]."""
    states, pooled = zip(*((s.half().cpu(), p) for s, p in map(encoders, chunks(prompts, batch))), strict=True)
    result = {column: numbers(torch.cat(states), "fp16", CURE), f"{column}_length": encoders.lengths(prompts).numpy()}  # (N, L, d), (N,)
    return result if pooled[0] is None else result | {f"{column}_pooled": numbers(torch.cat(pooled), "fp16", CURE)}
