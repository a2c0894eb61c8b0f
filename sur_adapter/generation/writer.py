"""Writes the images of arms that share one pipeline; a killed run resumes at the first batch that is not finished."""

import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.executors.base import ExecutorConfig, ShardResult
from sur_adapter.executors.executor import Executor
from sur_adapter.generation.attach import attach
from sur_adapter.generation.sampling import GenerateConfig, ImageJob, generate_batch
from sur_adapter.io.code_version import code_version
from sur_adapter.io.shards import batched, read_tar, write_tar
from sur_adapter.io.work_cache import WorkCache, file_stats
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.stable_diffusion import load_pipeline
from sur_adapter.models.torch_utils import resolve_device


class Batch(NamedTuple):
    """Images that one call of the pipeline draws: batch `number` of an arm."""

    arm: str
    number: int
    jobs: list[ImageJob]

    @property
    def file_name(self) -> str:
        return f"{self.arm}-{self.number:06d}.tar"


def write_images(
    out: Path,
    jobs: Mapping[str, list[ImageJob]],
    adapter: Path | None,
    models: ModelsConfig,
    config: GenerateConfig,
    executor: ExecutorConfig,
) -> dict[str, float]:
    """Writes <arm>/images-000000.tar into `out`: one PNG per job of the arm, in order. Each worker loads the pipeline once for all arms.

    jobs: arm -> its images. adapter: folder of the adapter to attach for all of them, or None.

    Returns arm -> seconds per image, of all workers together. The very first batch, in which models are loaded, does not count: an arm
    without another batch that was left to generate is missing.
    """
    batches = [Batch(arm, number, part) for arm, members in jobs.items() for number, part in enumerate(batched(members, config.batch_size))]
    files = file_stats(models.diffusion, adapter and str(adapter))
    inputs = {"jobs": jobs, "config": config, "models": models, "files": files}

    def input_files(batch: Batch) -> list:
        return [models.diffusion, adapter]

    with (
        WorkCache("generate", **inputs, code=code_version(__file__)) as work,
        Executor(partial(ImageWorker, work, adapter, models, config), input_files, executor) as workers,
    ):
        unfinished = [batch for batch in batches if not (work.folder / batch.file_name).exists()]
        done = [time.perf_counter() for _ in tqdm(workers.map(unfinished), "generate", len(unfinished), unit="batch", disable=None)]
        for arm in jobs:
            images = chain.from_iterable(read_tar(work.folder / batch.file_name) for batch in batches if batch.arm == arm)
            write_tar(out / arm / "images-000000.tar", images)
    return _seconds_per_image(unfinished, done)


def _seconds_per_image(batches: list[Batch], done: list[float]) -> dict[str, float]:
    """Returns arm -> seconds per image of its batches, without the first batch of all. done: when each batch was finished."""
    seconds, images = Counter(), Counter()
    for batch, (previous, now) in zip(batches[1:], pairwise(done), strict=True):
        seconds[batch.arm] += now - previous
        images[batch.arm] += len(batch.jobs)
    return {arm: seconds[arm] / images[arm] for arm in images}


class ImageWorker:
    """Generates one batch of images into a tar in the work cache (contract of a worker: executors/base.py)."""

    def __init__(self, work: WorkCache, adapter: Path | None, models: ModelsConfig, config: GenerateConfig):
        self.work, self.resolution, self.config = work, models.resolution, config
        self.pipe = load_pipeline(models.diffusion, config.scheduler).to(resolve_device())
        if adapter:
            attach(self.pipe, SURAdapter.from_pretrained(adapter))

    def __call__(self, batch: Batch) -> ShardResult:
        with self.work.open(batch.file_name) as part:
            write_tar(part, generate_batch(self.pipe, batch.jobs, self.resolution, self.config))
        return ShardResult.of(self.work.folder / batch.file_name, len(batch.jobs))
