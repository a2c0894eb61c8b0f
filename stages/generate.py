"""generate: one arm's pictures. Arms share prompts, seeds and the very noise.

A run that was killed goes on at the batch where it was.
"""

from functools import partial
from itertools import chain
from pathlib import Path

import pandas as pd
from tqdm import tqdm

import sur_adapter.models.stable_diffusion as diffusion
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.config import from_dict, settings
from sur_adapter.executors.base import ExecutorConfig, ShardResult
from sur_adapter.executors.executor import Executor
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.attach import attach
from sur_adapter.generation.prompts import read_prompts
from sur_adapter.generation.sampling import Job, choose, draw, jobs, paint
from sur_adapter.io.code_version import code_version
from sur_adapter.io.shards import chunks, read_tar, write_table, write_tar
from sur_adapter.io.work_cache import WorkCache, file_stats
from sur_adapter.models.torch_utils import device


def generate(prompts: Path, out: Path, adapter: Path | None = None, *, models: dict, generate: dict, executor: dict | None = None) -> None:
    name = out.name
    if name not in ARMS:
        raise ValueError(f"there is no arm {name!r}: name one of {', '.join(ARMS)}")
    if ARMS[name].adapted != bool(adapter):
        raise ValueError(f"the arm {name} is drawn {'with' if ARMS[name].adapted else 'without'} an adapter: see dvc.yaml")
    options = settings(draw, {k: v for k, v in generate.items() if k not in ("prompts", "per_category")}, "generate")
    rows = choose(read_prompts(prompts), generate["per_category"])
    texts = [ARMS[name].text(row) for row in rows]
    write(out, jobs(rows, texts, options.pop("seeds")), adapter, models, executor, **options)
    table = pd.DataFrame({"id": [r["id"] for r in rows], "category": [r["category"] for r in rows], "arm": name, "text": texts})
    write_table(out / "prompts.parquet", table)


def write(out: Path, wanted: list[Job], adapter: Path | None, models: dict, executor: dict | None, *, batch: int = 4, **how) -> None:
    """One shard of all pictures, in order; a batch is what a worker draws at a time. how: as of drawing.paint."""
    parts = chunks(wanted, batch)
    about = {
        "wanted": wanted,
        "batch": batch,
        "how": how,
        "models": models,
        "files": file_stats(models["diffusion"], adapter and str(adapter)),
    }

    def reads(task: tuple[int, list[Job]]) -> list:
        return [models["diffusion"], adapter]

    with (
        WorkCache("generate", **about, code=code_version(__file__)) as work,
        Executor(partial(Pictures, work, adapter, models, how), reads, from_dict(ExecutorConfig, executor, "executor")) as workers,
    ):
        tasks = [(number, some) for number, some in enumerate(parts) if not (work.folder / _name(number)).exists()]
        for _ in tqdm(workers.map(tasks), "generate", len(tasks), unit="batch", disable=None):
            pass
        drawn = chain.from_iterable(read_tar(work.folder / _name(number)) for number in range(len(parts)))
        write_tar(out / "images-000000.tar", drawn)


def _name(number: int) -> str:
    return f"batch-{number:06d}.tar"


class Pictures:
    """A worker (executor.py): a batch to the tar of its pictures."""

    def __init__(self, work: WorkCache, adapter: Path | None, models: dict, how: dict):
        self.work, self.resolution, self.how = work, models["resolution"], how
        self.pipe = diffusion.pipeline(models["diffusion"]).to(device())
        if adapter:
            attach(self.pipe, SURAdapter.from_pretrained(adapter))

    def __call__(self, task: tuple[int, list[Job]]) -> ShardResult:
        number, some = task
        with self.work.open(_name(number)) as part:
            write_tar(part, paint(self.pipe, some, self.resolution, **self.how))
        return ShardResult.of(self.work.folder / _name(number), len(some))
