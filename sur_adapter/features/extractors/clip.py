"""Text features of both prompts, by the text encoders of the diffusion model.

`{split}-000000.parquet` holds id, simple and complex (L, d) fp16, and simple_length and complex_length, the number of tokens before the
padding. SDXL's two encoders are concatenated, and its pooled vectors are simple_pooled and complex_pooled (p,).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sur_adapter.data.prompts.cleaning import effective_prompt
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.features.columns import Column, RepeatedColumn
from sur_adapter.features.writer import extract_shards, to_storage_dtype, weights_hash
from sur_adapter.io.schema import image_ids
from sur_adapter.io.shards import batched
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.fingerprint import fingerprint
from sur_adapter.models.stable_diffusion import TextEncoders
from sur_adapter.models.torch_utils import resolve_device

NEEDS_IMAGES = False
FIX_HINT = "name another model in params.yaml: models.diffusion"


@dataclass(frozen=True)
class Config:
    """Section `cache.clip` of params.yaml. batch_size: prompts."""

    batch_size: int = 64

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: give at least 1")


def extract(pairs: pd.DataFrame, images: None, out: Path, config: Config, models: ModelsConfig, executor: ExecutorConfig) -> None:
    """Writes the text features of all pairs; see base.py."""
    files = model_files(models.diffusion)
    extract_shards(out, pairs, partial(TextEncoderExtractor, models.diffusion, config), lambda ids: files, config, __file__, executor)


def model_files(model: str) -> list[str]:
    """Lists the parts of a model's folder that text encoders are loaded from; not every model has all of them."""
    return [f"{model}/{part}" for part in ("model_index.json", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")]


class TextEncoderExtractor:
    """Encodes the simple and the complex prompt of each pair; the complex one once for all captions of an image."""

    def __init__(self, model: str, config: Config):
        self.encoders, self.batch_size = TextEncoders(model, resolve_device()), config.batch_size
        modules = self.encoders.modules
        self.about = {"base_model": model, "text_encoder_weights": weights_hash(*modules.values())}
        self.about |= {name: fingerprint(module) for name, module in modules.items()}

    def __call__(self, rows: pd.DataFrame) -> dict[str, Column]:
        position, _ = pd.factorize(image_ids(rows["id"]))  # (N,), of the row's image among all images
        images = rows[~pd.Series(position).duplicated().to_numpy()].to_dict("records")
        columns = repeated(self.encode("complex", [effective_prompt(row) for row in images]), position)
        return self.encode("simple", rows["simple_prompt"].tolist()) | columns

    def encode(self, column: str, prompts: list[str]) -> dict[str, np.ndarray]:
        """Encodes prompts: column -> (N, L, d), column_length -> (N,), and with SDXL column_pooled -> (N, p)."""
        embeds, pooled = zip(*((e.half().cpu(), p) for e, p in map(self.encoders, batched(prompts, self.batch_size))), strict=True)
        columns = {
            column: to_storage_dtype(torch.cat(embeds), "fp16", FIX_HINT),
            f"{column}_length": self.encoders.lengths(prompts).numpy(),
        }
        if pooled[0] is not None:
            columns[f"{column}_pooled"] = to_storage_dtype(torch.cat(pooled), "fp16", FIX_HINT)
        return columns


def repeated(columns: dict[str, np.ndarray], position: np.ndarray) -> dict[str, Column]:
    """Gives each row the values of its position; if some rows share them, large ones are stored once."""
    if len(position) == len(next(iter(columns.values()))):
        return {name: values[position] for name, values in columns.items()}
    return {name: RepeatedColumn(values, position) if values.ndim > 1 else values[position] for name, values in columns.items()}
