"""caption: one plain sentence for each image that the crawl kept.

The source's own sentence is used where it has one, else the captioner is asked. A killed run resumes at the last finished batch, which
lies in the work cache until the stage is done.
"""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from sur_adapter.config import Params
from sur_adapter.executors.base import ExecutorConfig, ShardResult
from sur_adapter.executors.executor import Executor
from sur_adapter.io.code_version import code_version
from sur_adapter.io.raw_shards import Look, members, numbers, shard
from sur_adapter.io.schema import CAPTIONS
from sur_adapter.io.shards import write_table
from sur_adapter.io.work_cache import WorkCache, digest, file_stats
from sur_adapter.models.captioner import CaptionConfig, Captioner


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, required=True, help="folder of the crawled shards of one source")
    parser.add_argument("--out", type=Path, required=True, help="folder for captions-*.parquet, one table per shard")


def run(args: Namespace, params: Params) -> None:
    caption(args.raw, args.out, params.section("caption", CaptionConfig), params.section("executor", ExecutorConfig, required=False))


def caption(raw: Path, out: Path, config: CaptionConfig, executor: ExecutorConfig) -> None:
    """Writes a table of id and simple_prompt for each shard of `raw`, rows in the same order."""
    inputs = {"config": asdict(config), "files": file_stats(config.model, config.judge), "raw": digest(raw, "prompts-*.parquet")}

    def input_files(number: str) -> list:
        return [config.model, config.judge, *members(raw, number), *work.folder.glob(f"{number}-*")]

    with (
        WorkCache("caption", **inputs, code=code_version(__file__)) as work,
        Executor(partial(CaptionWorker, work, raw, config), input_files, executor) as workers,
    ):
        for _ in workers.map([number for number in numbers(raw) if work.get(_name(number)) is None], "caption"):
            pass
        for old in out.glob("captions-*.parquet"):
            old.unlink()
        work.publish(out, "captions-*.parquet")


def _name(number: str) -> str:
    return f"captions-{number}.parquet"


class CaptionWorker:
    """Captions one shard of `raw`, given by its number. The captioner is loaded when the first image needs it."""

    def __init__(self, work: WorkCache, raw: Path, config: CaptionConfig):
        self.work, self.raw, self.config = work, raw, config
        self.captioner = cache(lambda: Captioner(config))

    def __call__(self, number: str) -> ShardResult:
        rows, images = shard(self.raw, number)
        own = rows.simple_prompt if self.config.use_source_captions else rows.simple_prompt.map(lambda _: None)
        captions = own.fillna("").str.strip()
        missing = (captions == "").to_numpy()
        captions[missing] = self._generate(number, rows.id.to_numpy(), missing, images)
        with self.work.open(_name(number)) as part:
            write_table(part, pd.DataFrame({"id": rows.id, "simple_prompt": captions}), CAPTIONS)
        self.work.delete([f.name for f in self.work.folder.glob(f"{number}-*")])
        return ShardResult.of(self.work.folder / _name(number), len(rows))

    def _generate(self, number: str, ids: np.ndarray, missing: np.ndarray, images: Look) -> list[str]:
        """Captions the rows of a shard that have none; batches that an earlier run finished are read from the work cache."""
        captions, count = [], int(missing.sum())
        while len(captions) < count and (batch := self.work.get(f"{number}-{len(captions):06d}")) is not None:
            captions += json.loads(batch)
        if len(captions) == count:
            return captions
        remaining = missing & (missing.cumsum() > len(captions))
        with tqdm(initial=len(captions), total=count, desc=f"caption {number}", unit="image", disable=None) as bar:
            for batch in self.captioner().captions(images(remaining), list(ids[remaining]), self.config.batch_size):
                self.work.set(f"{number}-{len(captions):06d}", json.dumps(batch).encode())
                captions += batch
                bar.update(len(batch))
        return captions
