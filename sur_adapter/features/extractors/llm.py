"""Hidden states of the language model for the simple prompt, all layers in one forward pass.

`{split}-000000.parquet` holds id and layer_<k> (d_llm,), fp16. With pooling `tokens`, layer_<k> is (T, d_llm) with a T of each row; with
`layernorm-mean` there is one column, layernorm_mean (d_llm,).

Each distinct prompt is embedded once, and later rows copy the result. Which prompts share a batch is a function of the pairs, so a second
run gives the same bytes; in another batch a value may differ in its last bit, because sums are computed in another order.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.features.store import FeatureShard, write_features
from sur_adapter.features.writer import extract_shards, is_finished, to_storage_dtype, weights_hash
from sur_adapter.io.schema import split_shards
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.llm import LanguageModel, LLMConfig
from sur_adapter.models.torch_utils import resolve_device

NEEDS_IMAGES = False
FIX_HINT = "set cache.llm.storage_dtype to fp32, or pooling to layernorm-mean"


@dataclass(frozen=True, kw_only=True)
class Config(LLMConfig):
    """Section `cache.llm` of params.yaml: that of the language model, and storage_dtype, of the cached features."""

    storage_dtype: Literal["fp16", "fp32"] = "fp16"


def extract(pairs: pd.DataFrame, images: None, out: Path, config: Config, models: ModelsConfig, executor: ExecutorConfig) -> None:
    """Writes the hidden states of all pairs; see base.py. Raises ValueError if no language model is named."""
    if models.llm is None:
        raise ValueError("params.yaml: models.llm is null: name a language model, a folder or one of the hub")
    first: dict[str, tuple[str, int]] = {}  # prompt -> the shard in which it first occurs, and its row among the new prompts there
    parts = []
    for name, rows in split_shards(pairs):
        new = rows[[prompt not in first for prompt in rows["simple_prompt"]]].drop_duplicates("simple_prompt")
        first |= {prompt: (name, i) for i, prompt in enumerate(new["simple_prompt"])}
        parts += [(f"{name}.new", new)] if len(new) else []
    make_extractor, join = partial(HiddenStateExtractor, models.llm, config), partial(_join, list(split_shards(pairs)), first)
    extract_shards(out, pairs, make_extractor, lambda ids: [models.llm], config, __file__, executor, parts, join)


class HiddenStateExtractor:
    """Embeds the simple prompts of the rows, which are distinct."""

    def __init__(self, model: str, config: Config):
        self.llm, self.storage_dtype = LanguageModel(model, config, resolve_device()), config.storage_dtype
        self.about = {"llm": model, "llm_weights": weights_hash(self.llm.model), "pooling": config.pooling}
        self.about["precision"] = str(self.llm.dtype).removeprefix("torch.")

    def __call__(self, rows: pd.DataFrame) -> dict[str, np.ndarray | list[np.ndarray]]:
        """Computes column -> (N, d_llm), or with pooling `tokens` N arrays (T, d_llm)."""
        states = self.llm(rows["simple_prompt"].tolist()).items()
        store = partial(to_storage_dtype, storage_dtype=self.storage_dtype, fix_hint=FIX_HINT)
        if self.llm.pooling == "tokens":
            return {column: [store(row) for row in values] for column, values in states}
        return {column: store(values) for column, values in states}


def _join(shards: list[tuple[str, pd.DataFrame]], first: dict[str, tuple[str, int]], work: WorkCache, about: dict) -> None:
    """Writes the shards: each row takes the features of the first row with the same prompt."""
    new_columns = lru_cache(None)(lambda name: FeatureShard.open(work.folder / f"{name}.new").columns)
    columns = sorted(new_columns(shards[0][0]), key=lambda column: (len(column), column))  # layer_2 before layer_10
    for name, rows in shards:
        if not is_finished(work.folder / f"{name}.parquet"):
            positions = [first[prompt] for prompt in rows["simple_prompt"]]
            values = {column: [new_columns(shard)[column][i] for shard, i in positions] for column in columns}
            vectors = {column: v if about["pooling"] == "tokens" else np.stack(v) for column, v in values.items()}
            with work.open(f"{name}.parquet") as part:
                write_features(part, rows["id"].tolist(), vectors, about, len(shards))
