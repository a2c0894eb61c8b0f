"""Types that all executors share."""

import os
import sys
from collections.abc import Callable, Iterable
from functools import partialmethod
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

from tqdm import tqdm

from sur_adapter.io.hashing import digest

PATIENCE = 60.0  # seconds that a network disk may take to show what another machine wrote


WorkerFactory = Callable[[], Callable[[Any], Any]]


InputFiles = Callable[[Any], Iterable]  # a task to what a worker reads for it: paths, and settings that may name some


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
                "engine.store"
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
        raise ValueError(f"params.yaml: engine.gpus is {gpus}, and {there:g} GPUs are here: set it to 0, or start the stage elsewhere")
    if workers != "auto":
        return workers
    return max(1, int(there / gpus if gpus else processors / threads))
