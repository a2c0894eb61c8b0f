"""Captions the shards of a raw folder; `stages/caption.py` runs it."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from sur_adapter.executors.base import ShardResult
from sur_adapter.io.raw_shards import ImageReader, captions_file, read_shard
from sur_adapter.io.schema import CAPTIONS_SCHEMA
from sur_adapter.io.shards import write_table
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models.captioner import CaptionConfig, Captioner


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
        captions = captions.fillna("").str.strip()
        missing = (captions == "").to_numpy()
        captions[missing] = self._generate(number, rows.id.to_numpy(), missing, read_images)
        with self.work.open(captions_file(number)) as part:
            write_table(part, pd.DataFrame({"id": rows.id, "simple_prompt": captions}), CAPTIONS_SCHEMA)
        self.work.delete([file.name for file in self.work.folder.glob(f"{number}-*")])
        return ShardResult.of(self.work.folder / captions_file(number), len(rows))

    def _generate(self, number: str, ids: np.ndarray, missing: np.ndarray, read_images: ImageReader) -> list[str]:
        """Captions the rows of a shard that have none; batches that an earlier run finished are read from the work cache."""
        captions, count = [], int(missing.sum())
        while len(captions) < count and (batch := self.work.get(f"{number}-{len(captions):06d}")) is not None:
            captions += json.loads(batch)
        if len(captions) == count:
            return captions
        remaining = missing & (missing.cumsum() > len(captions))
        with tqdm(initial=len(captions), total=count, desc=f"caption {number}", unit="image") as bar:
            for batch in self.captioner().caption_batches(read_images(remaining), list(ids[remaining]), self.config.batch_size):
                self.work.set(f"{number}-{len(captions):06d}", json.dumps(batch).encode())
                captions += batch
                bar.update(len(batch))
        return captions
