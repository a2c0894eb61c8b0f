"""caption: a plain sentence for every picture the crawl kept: its source's own where there is one, else the captioner's.

A run that was killed goes on at the batch where it was: what is said lies in the work cache until all is done.
"""

import json
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from sur_adapter.config import from_dict, settings
from sur_adapter.executors.base import ExecutorConfig, ShardResult
from sur_adapter.executors.executor import Executor
from sur_adapter.io.code_version import code_version
from sur_adapter.io.raw_shards import Look, members, numbers, shard
from sur_adapter.io.schema import CAPTIONS
from sur_adapter.io.shards import write_table
from sur_adapter.io.work_cache import WorkCache, digest, file_stats
from sur_adapter.models.captioner import Captioner


def caption(raw: Path, out: Path, *, caption: dict, executor: dict | None = None) -> None:
    write(raw, out, executor, **settings(write, caption, "caption"))


def write(
    raw: Path,
    out: Path,
    executor: dict | None = None,
    *,
    model: str,
    top_p: float | None = None,
    seed: int = 0,
    batch: int = 32,
    candidates: int = 1,
    judge: str | None = None,
    own: bool = True,
) -> None:
    """A table for each shard of `raw`, its rows in their order. own: whether a sentence that the source has is taken as it is.

    The other settings are those of captioner.Captioner, which is loaded where a picture has no sentence yet.
    """
    how = {"model": model, "top_p": top_p, "seed": seed, "candidates": candidates, "judge": judge}
    about = how | {"batch": batch, "own": own, "files": file_stats(model, judge), "raw": digest(raw, "prompts-*.parquet")}

    def reads(number: str) -> list:
        return [model, judge, *members(raw, number), *work.folder.glob(f"{number}-*")]

    with (
        WorkCache("caption", **about, code=code_version(__file__)) as work,
        Executor(partial(Captions, work, raw, how, batch, own), reads, from_dict(ExecutorConfig, executor, "executor")) as workers,
    ):
        for _ in workers.map([number for number in numbers(raw) if work.get(_name(number)) is None], "caption"):
            pass
        for old in out.glob("captions-*.parquet"):
            old.unlink()
        work.publish(out, "captions-*.parquet")


def _name(number: str) -> str:
    return f"captions-{number}.parquet"


class Captions:
    """A worker (executor.py): the number of a shard of `raw` to its table. how: of the captioner, which it loads when it first asks one."""

    def __init__(self, work: WorkCache, raw: Path, how: dict, batch: int, own: bool):
        self.work, self.raw, self.batch, self.own = work, raw, batch, own
        self.captioner = cache(lambda: Captioner(**how))

    def __call__(self, number: str) -> ShardResult:
        rows, look = shard(self.raw, number)
        told = (rows.simple_prompt if self.own else rows.simple_prompt.map(lambda _: None)).fillna("").str.strip()
        silent = (told == "").to_numpy()
        told[silent] = self._sentences(number, rows.id.to_numpy(), silent, look)
        with self.work.open(_name(number)) as part:
            write_table(part, pd.DataFrame({"id": rows.id, "simple_prompt": told}), CAPTIONS)
        self.work.delete([f.name for f in self.work.folder.glob(f"{number}-*")])
        return ShardResult.of(self.work.folder / _name(number), len(rows))

    def _sentences(self, number: str, ids: np.ndarray, silent: np.ndarray, look: Look) -> list[str]:
        """For the silent rows of a shard; the batches that an earlier run finished are not asked for again."""
        said, count = [], int(silent.sum())
        while len(said) < count and (some := self.work.get(f"{number}-{len(said):06d}")) is not None:
            said += json.loads(some)
        if len(said) == count:
            return said
        left = silent & (silent.cumsum() > len(said))
        with tqdm(initial=len(said), total=count, desc=f"caption {number}", unit="picture", disable=None) as bar:
            for some in self.captioner().captions(look(left), list(ids[left]), self.batch):
                self.work.set(f"{number}-{len(said):06d}", json.dumps(some).encode())
                said += some
                bar.update(len(some))
        return said
