"""What the LLM makes of the simple prompt: `{split}-000000.parquet`, id, layer_<k> [d_llm], fp16; all layers in one pass.

With pooling `tokens`, layer_<k> [T, d_llm] of each row's own T; with `layernorm-mean`, one column layernorm_mean [d_llm].

Prompts of the same words are embedded once: a later row takes what was stored for an earlier one. Which prompts share a batch is a
function of the pairs alone, so a second run gives the same bytes; in another batch a value may differ by its last bit (sums in another
order).
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from sur_adapter.compute import device
from sur_adapter.lane import fill, identity, numbers
from sur_adapter.records import shards
from sur_adapter.store import Shard
from sur_adapter.teacher import Teacher

CURE = "set cache.llm.stored to fp32, or pooling to layernorm-mean"


def write(
    pairs: pd.DataFrame,
    pictures,
    out: Path,
    models: dict,
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
    teacher = Teacher(models["llm"], layers, pooling, device(), **options)
    about = {"llm": models["llm"], "llm_weights": identity(teacher.model), "pooling": pooling, "precision": str(teacher.dtype)[6:]}
    first: dict[str, tuple[str, int]] = {}  # of each prompt: its shard, and its row there
    for name, rows in shards(pairs):
        for i, prompt in enumerate(rows["simple_prompt"]):
            first.setdefault(prompt, (name, i))

    def make(name: str, rows: pd.DataFrame, done: Path) -> dict:
        prompts = rows["simple_prompt"].tolist()
        new = [p for i, p in enumerate(prompts) if first[p] == (name, i)]
        number = {p: i for i, p in enumerate(new)}
        states = embed(teacher, new, stored) if new else {}
        earlier = lru_cache(None)(lambda shard: Shard.open(done / f"{shard}.parquet"))

        def found(column: str, prompt: str):
            shard, row = first[prompt]
            return states[column][number[prompt]] if shard == name else earlier(shard).columns[column][row]

        vectors = {column: [found(column, p) for p in prompts] for column in teacher.columns}
        return vectors if pooling == "tokens" else {column: np.stack(rows) for column, rows in vectors.items()}

    fill(out, pairs, about, options | {"layers": layers, "stored": stored}, make)


def embed(teacher: Teacher, prompts: list[str], stored: str = "fp16") -> dict:
    """column -> [N, d_llm], or for "tokens" N times [T, d_llm]."""
    states = teacher(prompts).items()
    if teacher.pooling == "tokens":
        return {column: [numbers(row, stored, CURE) for row in values] for column, values in states}
    return {column: numbers(values, stored, CURE) for column, values in states}
