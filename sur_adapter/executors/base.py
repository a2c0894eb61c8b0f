"""Types that all executors share.

Terms: a *stage* splits its work into *tasks*, usually one per shard. A *worker* is a callable that holds the models and turns one task into
a `ShardResult`; a *worker factory* makes one in each process when the first task arrives. An *executor* decides where workers run.
"""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from sur_adapter.io.hashing import digest

PATIENCE = 60.0  # seconds that a network disk may take to show what another machine wrote


WorkerFactory = Callable[[], Callable[[Any], Any]]
InputFiles = Callable[[Any], Iterable]  # a task -> the paths that a worker reads for it, and settings that may name some


@dataclass(frozen=True)
class ExecutorConfig:
    """Section `executor` of params.yaml. No stage tracks it: outputs are the same bytes wherever the workers run.

    kind: where workers run. workers: how many; auto: as many as the GPUs, else the CPU cores, allow. gpus: of each worker; 0 sets none
    apart. address: of a Ray cluster; auto joins the one of this machine, null starts one. retries: how often a task is given to another worker
    after its own was lost. store: fsspec address through which files travel to workers and back; null: all see one file system.
    """

    kind: Literal["inline", "processes", "ray"] = "inline"
    workers: int | Literal["auto"] = "auto"
    address: str | None = None
    gpus: float = 0
    retries: int = 3
    store: str | None = None

    def __post_init__(self):
        if self.workers != "auto" and self.workers < 1:
            raise ValueError(f"workers is {self.workers!r}: give a whole number of at least 1, or auto")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(f"gpus is {self.gpus:g}: give the GPUs of a worker, such as 0, 1, or 0.5 for half of one")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries!r}: give a whole number, 0 for none")


class ShardResult(NamedTuple):
    """What a worker gives back of a file it wrote."""

    file: Path
    rows: int
    sha256: str

    @classmethod
    def of(cls, file: Path, rows: int) -> "ShardResult":
        return cls(file, rows, digest(file))

    def check(self) -> None:
        """ValueError where the file is not here, or is not the one that was written."""
        end = monotonic() + PATIENCE
        while not self.file.exists() and monotonic() < end:
            sleep(0.2)
        if not self.file.exists() or digest(self.file) != self.sha256:
            raise ValueError(
                f"{self.file} is not here as a worker wrote it: put the project, and SUR_WORK, on a disk that all machines see, or name an "
                "executor.store"
            )


class Worker:
    """What `make` makes, when the first task comes; threads: that torch reckons with."""

    def __init__(self, make: WorkerFactory, threads: int):
        self.make, self.threads, self.do = make, threads, None

    def __call__(self, task):
        os.environ["OMP_NUM_THREADS"] = str(self.threads)  # of what is imported from here on
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(self.threads)
        if self.do is None:
            tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)  # the bar of all shards is the stage's own
            self.do = self.make()
        return self.do(task)

    def leave(self) -> None:
        """Before the process ends: what goes with it."""
        if hasattr(self.do, "leave"):
            self.do.leave()


def threads() -> int:
    import torch

    return torch.get_num_threads()


def resolve_num_workers(workers: int | str, gpus: float, threads: int, processors: float, there: float) -> int:
    """How many workers: as many as are asked for, or as find place. ValueError where not one does."""
    if gpus > there:
        raise ValueError(f"params.yaml: executor.gpus is {gpus}, and {there:g} GPUs are here: set it to 0, or start the stage elsewhere")
    if workers != "auto":
        return workers
    return max(1, int(there / gpus if gpus else processors / threads))
