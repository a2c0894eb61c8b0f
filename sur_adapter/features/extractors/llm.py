"""What the LLM makes of the simple prompt: `{split}-000000.parquet`, id, layer_<k> [d_llm], fp16; all layers in one pass.

With pooling `tokens`, layer_<k> [T, d_llm] of each row's own T; with `layernorm-mean`, one column layernorm_mean [d_llm].

Prompts of the same words are embedded once: a later row takes what was stored for an earlier one. Which prompts share a batch is a
function of the pairs alone, so a second run gives the same bytes; in another batch a value may differ by its last bit (sums in another
order).
"""

from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from sur_adapter.features.store import Shard, write_vectors
from sur_adapter.features.writer import fill, finished, identity, numbers
from sur_adapter.io.schema import split_shards
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models.llm import LanguageModel
from sur_adapter.models.torch_utils import resolve_device

CURE = "set cache.llm.stored to fp32, or pooling to layernorm-mean"


def write(
    pairs: pd.DataFrame,
    pictures,
    out: Path,
    models: dict,
    executor: dict | None = None,
    *,
    layers: list[int] | str,
    pooling: str = "last",
    tokens: int = 4096,
    precision: str = "auto",
    stored: str = "fp16",
    bits: int | None = None,
    device_map: str | None = None,
) -> None:
    options = {"tokens": tokens, "precision": precision, "bits": bits, "device_map": device_map}
    make = partial(States, models["llm"], layers, pooling, stored, options)
    first: dict[str, tuple[str, int]] = {}  # of each prompt: the shard that asks for it, and its place among what that asks
    parts = []
    for name, rows in split_shards(pairs):
        new = rows[[prompt not in first for prompt in rows["simple_prompt"]]].drop_duplicates("simple_prompt")
        first |= {prompt: (name, i) for i, prompt in enumerate(new["simple_prompt"])}
        parts += [(f"{name}.new", new)] if len(new) else []
    settings = options | {"layers": layers, "stored": stored}
    fill(
        out, pairs, make, lambda ids: [models["llm"]], settings, __file__, executor, parts, partial(_join, list(split_shards(pairs)), first)
    )


class States:
    """The LLM, asked for prompts that no shard before has asked for."""

    def __init__(self, model: str, layers: list[int] | str, pooling: str, stored: str, options: dict):
        self.teacher, self.stored = LanguageModel(model, layers, pooling, resolve_device(), **options), stored
        precision = str(self.teacher.dtype)[6:]
        self.about = {"llm": model, "llm_weights": identity(self.teacher.model), "pooling": pooling, "precision": precision}

    def __call__(self, rows: pd.DataFrame) -> dict:
        return embed(self.teacher, rows["simple_prompt"].tolist(), self.stored)


def _join(parts: list[tuple[str, pd.DataFrame]], first: dict[str, tuple[str, int]], work: WorkCache, about: dict) -> None:
    """The shards, each row with what was found for the first prompt of its words."""
    asked = lru_cache(None)(lambda name: Shard.open(work.folder / f"{name}.new").columns)
    columns = sorted(asked(parts[0][0]), key=lambda column: (len(column), column))  # layer_2 before layer_10
    for name, rows in parts:
        if not finished(work.folder / f"{name}.parquet"):
            places = [first[prompt] for prompt in rows["simple_prompt"]]
            found = {column: [asked(shard)[column][i] for shard, i in places] for column in columns}
            vectors = {column: v if about["pooling"] == "tokens" else np.stack(v) for column, v in found.items()}
            with work.open(f"{name}.parquet") as part:
                write_vectors(part, rows["id"].tolist(), vectors, about, len(parts))


def embed(teacher: LanguageModel, prompts: list[str], stored: str = "fp16") -> dict:
    """column -> [N, d_llm], or for "tokens" N times [T, d_llm]."""
    states = teacher(prompts).items()
    if teacher.pooling == "tokens":
        return {column: [numbers(row, stored, CURE) for row in values] for column, values in states}
    return {column: numbers(values, stored, CURE) for column, values in states}
