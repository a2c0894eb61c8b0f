"""Runs a feature extractor shard by shard, resumably.

Finished shards are in the work cache, under a key of everything they depend on: rows, settings, model weights and code. A killed run
resumes after them; they are published to the output folder when all are done.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

import sur_adapter.io.schema as schema
from sur_adapter.data.prompts.cleaning import effective_prompt
from sur_adapter.executors.base import ExecutorConfig, ShardResult
from sur_adapter.executors.executor import Executor
from sur_adapter.features.extractors.base import RowExtractor
from sur_adapter.features.store import FeatureShard, write_features
from sur_adapter.io.code_version import code_version
from sur_adapter.io.hashing import short_digest
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models.torch_utils import DTYPES

Parts = list[tuple[str, pd.DataFrame]]  # file name, rows
SAMPLES_PER_TENSOR = 16  # values of each tensor in the hash of a model's weights


def extract_shards(
    out: Path,
    rows: pd.DataFrame,
    make_extractor: Callable[[], RowExtractor],
    input_files: Callable[[list[str]], list],
    config: Any,
    module: str,
    executor: ExecutorConfig,
    parts: Parts | None = None,
    finish: Callable[[WorkCache, dict], None] | None = None,
    digest: str | None = None,
) -> None:
    """Writes the features of all rows, kept pairs or sentences, to `out`, one Parquet file per shard.

    make_extractor: creates the row extractor, in each worker. input_files: ids -> the files that a worker reads for them. config: a
    dataclass of settings that the features depend on. module: `__file__` of the extractor. parts: what is extracted instead of the shards
    of `rows`; then finish(work, about) makes the shards from the parts. digest: of all that the extractor reads of `rows`, by default
    `pairs_digest`.
    """
    name = Path(module).stem
    inputs = {"features": name, "config": asdict(config), "pairs": digest or pairs_digest(rows), "rows_per_shard": schema.ROWS_PER_SHARD}
    parts = parts or [(f"{shard}.parquet", part) for shard, part in schema.split_shards(rows)]

    def task_files(task: tuple | None) -> list:
        return input_files(task[2]["id"].tolist() if task else [])

    with Executor(partial(FeatureWorker, make_extractor), task_files, executor) as workers:
        (about,) = workers.map([None])
        with WorkCache("cache", **inputs, code=code_version(module), about=about) as work:
            tasks = [(work, file, part, len(parts)) for file, part in parts if not is_finished(work.folder / file)]
            for _ in tqdm(workers.map(tasks), f"cache {name}", len(tasks), disable=None):
                pass
            workers.close()
            if finish:
                finish(work, about)
            for old in out.glob("*.parquet"):  # an earlier run may have had more shards
                old.unlink()
            work.publish(out, "*.parquet")


class FeatureWorker:
    """Runs a row extractor: a task is the rows of one file; the task None returns the extractor's `about`."""

    def __init__(self, make_extractor: Callable[[], RowExtractor]):
        self.extractor = make_extractor()

    def __call__(self, task: tuple[WorkCache, str, pd.DataFrame, int] | None) -> ShardResult | dict[str, Any]:
        if task is None:
            return self.extractor.about
        work, file, rows, num_shards = task
        with work.open(file) as part:
            write_features(part, rows["id"].tolist(), self.extractor(rows), self.extractor.about, num_shards)
        return ShardResult.of(work.folder / file, len(rows))


def pairs_digest(pairs: pd.DataFrame) -> str:
    """Hashes all that extractors read of the pairs; an id is the digest of its image."""
    rows = pairs.to_dict("records")
    return short_digest(*(repr((row["id"], row["split"], row["simple_prompt"], effective_prompt(row))) for row in rows))


@torch.no_grad()
def weights_hash(*models: nn.Module) -> str:
    """Hashes models: the name and shape of each tensor, and SAMPLES_PER_TENSOR of its values, evenly spaced."""
    chunks: list[str | bytes] = []
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            flat = tensor.reshape(-1)
            positions = torch.linspace(0, len(flat) - 1, min(SAMPLES_PER_TENSOR, len(flat))).long()
            chunks += [f"{name} {tuple(tensor.shape)}", flat[positions.to(flat.device)].double().cpu().numpy().tobytes()]
    return short_digest(*chunks)


def to_storage_dtype(values: torch.Tensor, storage_dtype: str, fix_hint: str) -> np.ndarray:
    """Converts features to the dtype they are stored in, fp16 or fp32. Raises ValueError with `fix_hint` if a value does not fit."""
    stored = values.to(DTYPES[storage_dtype]).cpu()
    if not stored.isfinite().all():
        raise ValueError(f"a feature of size {values.abs().max().item():.3g} does not fit in {storage_dtype}: {fix_hint}")
    return stored.numpy()


def is_finished(file: Path) -> bool:
    """Tells whether a shard of an earlier run exists and is not corrupt."""
    try:
        return file.exists() and FeatureShard.open(file).is_intact()
    except ValueError:
        return False
