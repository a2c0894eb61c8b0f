"""caption: writes plain sentences for each image that the crawl kept, one by default.

The first is the source's own sentence if it has one; the captioner writes the others. Finished batches are kept in the work cache until the
stage is done, so a killed run resumes there.
"""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm import tqdm

from sur_adapter.executors.base import ExecutorConfig, ShardResult
from sur_adapter.executors.executor import Executor
from sur_adapter.io.code_version import code_version
from sur_adapter.io.hashing import folder_digest
from sur_adapter.io.raw_shards import ImageReader, captions_file, read_shard, shard_files, shard_numbers
from sur_adapter.io.schema import CAPTIONS_SCHEMA, caption_id
from sur_adapter.io.shards import write_table
from sur_adapter.io.work_cache import WorkCache, file_stats
from sur_adapter.models.captioner import CaptionConfig, Captioner

if TYPE_CHECKING:
    from sur_adapter.config import Params


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, required=True, help="folder of the crawled shards of one source")
    parser.add_argument("--out", type=Path, required=True, help="folder for captions-*.parquet, one table per shard")


def run(args: Namespace, params: "Params") -> None:
    caption(args.raw, args.out, params.section("caption", CaptionConfig), params.section("executor", ExecutorConfig, required=False))


def caption(raw: Path, out: Path, config: CaptionConfig, executor: ExecutorConfig) -> None:
    """Writes a table of id and simple_prompt for each shard of `raw`: images in the same order, each with its captions."""
    inputs = {"config": asdict(config), "files": file_stats(config.model, config.judge), "raw": folder_digest(raw, "prompts-*.parquet")}

    def input_files(number: str) -> list:
        return [config.model, config.judge, *shard_files(raw, number), *work.folder.glob(f"{number}-*")]

    with (
        WorkCache("caption", **inputs, code=code_version(__file__)) as work,
        Executor(partial(CaptionWorker, work, raw, config), input_files, executor) as workers,
    ):
        for _ in workers.map([number for number in shard_numbers(raw) if work.get(captions_file(number)) is None], "caption"):
            pass
        for old in out.glob("captions-*.parquet"):
            old.unlink()
        work.publish(out, "captions-*.parquet")


class CaptionWorker:
    """Captions one shard of `raw`, given by its number. The captioner is loaded when the first image needs it.

    Finished batches and tables are kept in `work`, from which a restarted run resumes.
    """

    def __init__(self, work: WorkCache, raw: Path, config: CaptionConfig):
        self.work, self.raw, self.config = work, raw, config
        self.captioner = cache(lambda: Captioner(config))

    def __call__(self, number: str) -> ShardResult:
        rows, read_images = read_shard(self.raw, number)
        captions = rows.simple_prompt if self.config.use_source_captions else pd.Series(None, rows.index, object)
        given, sentences = captions.fillna("").str.strip(), self.config.sentences
        wanted = ((given == "") | (sentences > 1)).to_numpy()
        generated = iter(self._generate(number, rows.id.to_numpy(), wanted, read_images))
        captions = [next(generated) if generate else [] for generate in wanted]
        captions = [[own, *texts[1:]] if own else texts for own, texts in zip(given, captions, strict=True)]
        ids = [caption_id(image, k) for image in rows.id for k in range(sentences)]
        with self.work.open(captions_file(number)) as part:
            write_table(part, pd.DataFrame({"id": ids, "simple_prompt": [*chain(*captions)]}), CAPTIONS_SCHEMA)
        self.work.delete([file.name for file in self.work.folder.glob(f"{number}-*")])
        return ShardResult.of(self.work.folder / captions_file(number), len(rows))

    def _generate(self, number: str, ids: np.ndarray, wanted: np.ndarray, read_images: ImageReader) -> list[list[str]]:
        """Captions the wanted rows of a shard; batches that an earlier run finished are read from the work cache."""
        captions, count = [], int(wanted.sum())
        while len(captions) < count and (batch := self.work.get(f"{number}-{len(captions):06d}")) is not None:
            captions += json.loads(batch)
        if len(captions) == count:
            return captions
        remaining = wanted & (wanted.cumsum() > len(captions))
        with tqdm(initial=len(captions), total=count, desc=f"caption {number}", unit="image") as bar:
            for batch in self.captioner().caption_batches(read_images(remaining), list(ids[remaining]), self.config.batch_size):
                self.work.set(f"{number}-{len(captions):06d}", json.dumps(batch).encode())
                captions += batch
                bar.update(len(batch))
        return captions
