"""Writes the images of one arm; a killed run resumes at the first batch that is not finished."""

import time
from functools import partial
from itertools import chain
from pathlib import Path

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

Batch = tuple[int, list[ImageJob]]  # its number and its jobs


def write_images(
    out: Path, jobs: list[ImageJob], adapter: Path | None, models: ModelsConfig, config: GenerateConfig, executor: ExecutorConfig
) -> float | None:
    """Writes images-000000.tar into `out`: one PNG per job, in order. adapter: folder of the adapter to attach, or None.

    Returns the seconds per image, of all workers together and after the first batch, in which models are loaded; None if fewer than two
    batches were left to generate.
    """
    batches: list[Batch] = list(enumerate(batched(jobs, config.batch_size)))
    files = file_stats(models.diffusion, adapter and str(adapter))
    inputs = {"jobs": jobs, "config": config, "models": models, "files": files}

    def input_files(batch: Batch) -> list:
        return [models.diffusion, adapter]

    with (
        WorkCache("generate", **inputs, code=code_version(__file__)) as work,
        Executor(partial(ImageWorker, work, adapter, models, config), input_files, executor) as workers,
    ):
        unfinished = [batch for batch in batches if not (work.folder / _name(batch[0])).exists()]
        done = [time.perf_counter() for _ in tqdm(workers.map(unfinished), "generate", len(unfinished), unit="batch", disable=None)]
        images = chain.from_iterable(read_tar(work.folder / _name(number)) for number, _ in batches)
        write_tar(out / "images-000000.tar", images)
    return (done[-1] - done[0]) / sum(len(jobs) for _, jobs in unfinished[1:]) if len(done) > 1 else None


def _name(number: int) -> str:
    return f"batch-{number:06d}.tar"


class ImageWorker:
    """Generates one batch of images into a tar in the work cache (contract of a worker: executors/base.py)."""

    def __init__(self, work: WorkCache, adapter: Path | None, models: ModelsConfig, config: GenerateConfig):
        self.work, self.resolution, self.config = work, models.resolution, config
        self.pipe = load_pipeline(models.diffusion).to(resolve_device())
        if adapter:
            attach(self.pipe, SURAdapter.from_pretrained(adapter))

    def __call__(self, batch: Batch) -> ShardResult:
        number, jobs = batch
        with self.work.open(_name(number)) as part:
            write_tar(part, generate_batch(self.pipe, jobs, self.resolution, self.config))
        return ShardResult.of(self.work.folder / _name(number), len(jobs))
