"""Where the shards of a stage are worked on: in this process, in several of this machine, or on a Ray cluster. The bits are the same.

    with Engine(partial(Captions, work, raw), kind="processes", workers=4) as engine:
        for made in engine.map(numbers):
            ...

What the first argument makes is a worker: it holds the models, is made once in each process when the first task comes, and is called with
one task after another. Tasks and answers are small. What is made lies in the stage's work folder (work.py) under its final name, where all
machines see it, so that a killed run goes on after what is finished, whichever engine began it. Machines that see no disk in common have a
store instead (haul.py).

Numbers on a CPU may differ by the number of threads that add them up. So every worker reckons with as many as this process would.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partialmethod
from hashlib import file_digest
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

from tqdm import tqdm

from sur_adapter.schema import choose

KINDS = ("inline", "processes", "ray")
PATIENCE = 60.0  # seconds that a network disk may take to show what another machine wrote
Make = Callable[[], Callable[[Any], Any]]
Reads = Callable[[Any], Iterable]  # a task to what a worker reads for it: paths, and settings that may name some


class Engine:
    """kind: inline, processes or ray. workers: how many, or auto: as many as the GPUs, else the processors, suffice for. gpus: of each
    worker; 0 leaves all to all. address: of a Ray cluster, `auto` for that of this machine, null starts one. retries: how often work whose
    worker was lost is given to another. store: an address of fsspec through which files go to workers and back; null: all see one disk.
    reads: what goes there; this process itself needs no store.

    Raises ValueError for what cannot be.
    """

    def __init__(
        self,
        make: Make,
        reads: Reads = lambda task: (),
        *,
        kind: str = "inline",
        workers: int | str = "auto",
        address: str | None = None,
        gpus: float = 0,
        retries: int = 3,
        store: str | None = None,
    ):
        choose("engine.kind", kind, KINDS)
        if workers != "auto" and (not isinstance(workers, int) or workers < 1):
            raise ValueError(f"params.yaml: engine.workers is {workers!r}: give a whole number of at least 1, or auto")
        if not isinstance(gpus, int | float) or gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise ValueError(f"params.yaml: engine.gpus is {gpus!r}: give the GPUs of a worker, such as 0, 1, or 0.5 for half of one")
        if not isinstance(retries, int) or retries < 0:
            raise ValueError(f"params.yaml: engine.retries is {retries!r}: give a whole number, 0 for none")
        self.inline, self.haul = kind == "inline", None
        if store is not None:
            from sur_adapter.haul import Haul

            self.haul = Haul(store, reads)
            make = make if self.inline else self.haul.maker(make)
        if self.inline:
            self._run = _Inline(make)
        elif kind == "processes":
            from sur_adapter.pool import Pool

            self._run = Pool(make, workers, gpus, retries)
        else:
            from sur_adapter.cluster import Cluster  # and with it Ray, which nobody else waits for

            self._run = Cluster(make, workers, gpus, retries, address, apart=store is not None)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Lets the workers go, and whatever they are still at."""
        self._run.close()

    def map(self, tasks: Iterable, name: str = "") -> Iterator:
        """The answers in the order of the tasks, which are asked for no sooner than there is somebody to do them. An exception of a worker
        is raised here. name: what a bar says of them, where workers show none of their own."""
        total = len(tasks) if hasattr(tasks, "__len__") else None
        with tqdm(desc=name, total=total, unit="shard", disable=True if self.inline or not name else None) as bar:
            waiting, told = {}, 0
            for number, answer in self._run.answers(self.haul.sent(tasks) if self.haul and not self.inline else tasks):
                if isinstance(answer, Made) and not self.inline:
                    self.haul.received(answer.file, answer.sha256) if self.haul else answer.check()
                bar.update()
                waiting[number] = answer
                while told in waiting:
                    yield waiting.pop(told)
                    told += 1


class Made(NamedTuple):
    """What a worker gives back of a file it wrote."""

    file: Path
    rows: int
    sha256: str

    @classmethod
    def of(cls, file: Path, rows: int) -> "Made":
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


def digest(file: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


class Worker:
    """What `make` makes, when the first task comes; threads: that torch reckons with."""

    def __init__(self, make: Make, threads: int):
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


class _Inline:
    def __init__(self, make: Make):
        self.make, self.do = make, None

    def answers(self, tasks: Iterable) -> Iterator[tuple[int, Any]]:
        for number, task in enumerate(tasks):
            self.do = self.do or self.make()
            yield number, self.do(task)

    def close(self) -> None:
        self.do = None


def threads() -> int:
    import torch

    return torch.get_num_threads()


def counted(workers: int | str, gpus: float, threads: int, processors: float, there: float) -> int:
    """How many workers: as many as are asked for, or as find place. ValueError where not one does."""
    if gpus > there:
        raise ValueError(f"params.yaml: engine.gpus is {gpus}, and {there:g} GPUs are here: set it to 0, or start the stage elsewhere")
    if workers != "auto":
        return workers
    return max(1, int(there / gpus if gpus else processors / threads))
