"""A lane of the cache: shard after shard of features, each whole or not there, delivered when all are done.

A lane that was killed goes on after its last finished shard. What lies unfinished is named by content: the pairs, the settings, the
models' weights and the code.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

import sur_adapter.records as records
from sur_adapter.provenance import revision
from sur_adapter.store import Shard, write_vectors
from sur_adapter.wording import words
from sur_adapter.work import Work

SAMPLE = 16  # numbers of each tensor that tell models apart


def fill(out: Path, pairs: pd.DataFrame, about: dict, settings: dict, make: Callable) -> None:
    """make(name, rows, done): the features of a shard, name -> [N, …], where `done` is the folder of the shards before it.

    about: what made the features, written into every file; settings: what else they depend on.
    """
    parts = list(records.shards(pairs))
    depends = {"lane": out.name, "about": about, "settings": settings, "pairs": digest(pairs), "shard": records.SHARD}
    with Work("cache", **depends, code=revision(make.__code__.co_filename)) as work:
        for name, rows in tqdm(parts, desc=f"cache {out.name}", disable=None):
            file = work.folder / f"{name}.parquet"
            if _finished(file):
                continue
            write_vectors(file, rows["id"].tolist(), make(name, rows, work.folder), about, len(parts))
        for old in out.glob("*.parquet"):  # fewer pairs leave no shard of more
            old.unlink()
        work.deliver(out, "*.parquet")


def digest(pairs: pd.DataFrame) -> str:
    """Of all that a lane reads of the pairs; an id is the digest of its picture."""
    result = sha256()
    for row in pairs.to_dict("records"):
        result.update(repr((row["id"], row["split"], row["simple_prompt"], words(row))).encode())
    return result.hexdigest()[:16]


@torch.no_grad()
def identity(*models: nn.Module) -> str:
    """Sixteen hex digits that tell models apart: their shapes, and numbers from all over every tensor."""
    result = sha256()
    for model in models:
        for name, values in sorted(model.state_dict().items()):
            flat = values.reshape(-1)
            some = flat[torch.linspace(0, len(flat) - 1, min(SAMPLE, len(flat))).long().to(flat.device)].double().cpu()
            result.update(f"{name} {tuple(values.shape)}".encode() + some.numpy().tobytes())
    return result.hexdigest()[:16]


def numbers(values: torch.Tensor, stored: str, cure: str) -> np.ndarray:
    """As they are stored: fp16, or fp32 where that is asked for. ValueError with the cure where they do not fit."""
    kinds = {"fp16": torch.float16, "fp32": torch.float32}
    if stored not in kinds:
        raise ValueError(f"params.yaml: stored is {stored!r}: choose fp16 or fp32")
    result = values.to(kinds[stored]).cpu()
    if not result.isfinite().all():
        raise ValueError(f"a feature of size {values.abs().max().item():.3g} is no number of {stored}: {cure}")
    return result.numpy()


def _finished(file: Path) -> bool:
    try:
        return file.exists() and Shard.open(file).intact()
    except ValueError:
        return False
