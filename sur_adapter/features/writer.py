"""A lane of the cache: shard after shard of features, each whole or not there, delivered when all are done.

A lane that was killed goes on after its last finished shard. What lies unfinished is named by content: the pairs, the settings, the
models' weights and the code.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

import sur_adapter.io.schema as records
from sur_adapter.config import from_dict
from sur_adapter.data.prompts.cleaning import effective_prompt
from sur_adapter.executors.base import ExecutorConfig, ShardResult
from sur_adapter.executors.executor import Executor
from sur_adapter.features.store import Shard, write_vectors
from sur_adapter.io.code_version import code_version
from sur_adapter.io.hashing import short_digest
from sur_adapter.io.work_cache import WorkCache

Parts = list[tuple[str, pd.DataFrame]]
SAMPLE = 16  # numbers of each tensor that tell models apart


def fill(
    out: Path,
    pairs: pd.DataFrame,
    make: Callable,
    reads: Callable[[list[str]], list],
    settings: dict,
    code: str,
    executor: dict | None,
    parts: Parts | None = None,
    finish=None,
) -> None:
    """make: what sees: `seer(rows)` gives name -> [N, …], `seer.about` tells what models made it, and is written into every file. reads:
    the ids of some rows to what a worker reads for them, as of executor.Engine.

    settings: what else it depends on; code: the file that it stands in. parts: what is worked on, by the name of its file, where that is
    not the shards; finish(work, about) makes these of it.
    """
    depends = {"lane": out.name, "settings": settings, "pairs": digest(pairs), "shard": records.ROWS_PER_SHARD, "code": code_version(code)}
    parts = parts or [(f"{name}.parquet", rows) for name, rows in records.split_shards(pairs)]
    with Executor(
        partial(FeatureWorker, make),
        lambda task: reads(task[2]["id"].tolist() if task else []),
        from_dict(ExecutorConfig, executor, "executor"),
    ) as workers:
        (about,) = workers.map([None])
        with WorkCache("cache", **depends, about=about) as work:
            tasks = [(work, name, rows, len(parts)) for name, rows in parts if not finished(work.folder / name)]
            for _ in tqdm(workers.map(tasks), f"cache {out.name}", len(tasks), disable=None):
                pass
            workers.close()
            if finish:
                finish(work, about)
            for old in out.glob("*.parquet"):  # fewer pairs leave no shard of more
                old.unlink()
            work.publish(out, "*.parquet")


class FeatureWorker:
    """A worker (executor.py): some rows to a file of what `make` sees of them; to no task at all, what made it."""

    def __init__(self, make: Callable):
        self.seer = make()

    def __call__(self, task: tuple[WorkCache, str, pd.DataFrame, int] | None) -> ShardResult | dict:
        if task is None:
            return self.seer.about
        work, name, rows, count = task
        with work.open(name) as part:
            write_vectors(part, rows["id"].tolist(), self.seer(rows), self.seer.about, count)
        return ShardResult.of(work.folder / name, len(rows))


def digest(pairs: pd.DataFrame) -> str:
    """Of all that a lane reads of the pairs; an id is the digest of its picture."""
    rows = pairs.to_dict("records")
    return short_digest(*(repr((row["id"], row["split"], row["simple_prompt"], effective_prompt(row))) for row in rows))


@torch.no_grad()
def identity(*models: nn.Module) -> str:
    """Sixteen hex digits that tell models apart: their shapes, and numbers from all over every tensor."""
    chunks: list = []
    for model in models:
        for name, values in sorted(model.state_dict().items()):
            flat = values.reshape(-1)
            some = flat[torch.linspace(0, len(flat) - 1, min(SAMPLE, len(flat))).long().to(flat.device)].double().cpu()
            chunks += [f"{name} {tuple(values.shape)}", some.numpy()]
    return short_digest(*chunks)


def numbers(values: torch.Tensor, stored: str, cure: str) -> np.ndarray:
    """As they are stored: fp16, or fp32 where that is asked for. ValueError with the cure where they do not fit."""
    kinds = {"fp16": torch.float16, "fp32": torch.float32}
    if stored not in kinds:
        raise ValueError(f"params.yaml: stored is {stored!r}: choose fp16 or fp32")
    result = values.to(kinds[stored]).cpu()
    if not result.isfinite().all():
        raise ValueError(f"a feature of size {values.abs().max().item():.3g} is no number of {stored}: {cure}")
    return result.numpy()


def finished(file: Path) -> bool:
    try:
        return file.exists() and Shard.open(file).intact()
    except ValueError:
        return False
