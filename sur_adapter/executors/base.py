"""The contract of an executor, and the types that all executors share.

Terms: a *stage* splits its work into *tasks*, usually one per shard. A *worker* is a callable that holds the models and turns one task into
a result, usually a `ShardResult` or a list of several. A *worker factory* creates one worker in each process, when the first task arrives.
An *executor* decides where workers run; outputs are the same bytes wherever they do.

To add an executor: write a subclass of `BaseExecutor` in a file of this package, add its kind to `ExecutorConfig.kind` and to
`EXECUTORS` in executor.py.
"""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Literal, NamedTuple

from sur_adapter.io.hashing import file_digest

FILE_TIMEOUT = 60.0  # seconds that a network file system may take to show a file that another machine wrote

Worker = Callable[[Any], Any]
WorkerFactory = Callable[[], Worker]
InputFiles = Callable[[Any], Iterable]  # task -> the paths that a worker reads for it, and settings that may name a path


@dataclass(frozen=True)
class ExecutorConfig:
    """Section `executor` of params.yaml. No stage tracks it: with as many threads, outputs are the same bytes wherever the workers run.

    kind: where workers run. workers: how many; auto: as many as the GPUs, or else the CPU cores, allow. threads: of torch in each worker;
    null: as many as in the stage's own process. Sums on a CPU depend on it: with 1, outputs are the same bytes for any number of cores.
    gpus: for each worker; 0 reserves none. address: of a Ray cluster; auto joins the one on this machine, null starts one. retries: how
    often a task is given to another worker after its own was lost. store: fsspec address through which files travel to workers and back;
    null: all share one file system.
    """

    kind: Literal["inline", "processes", "ray"] = "inline"
    workers: int | Literal["auto"] = "auto"
    threads: int | None = None
    address: str | None = None
    gpus: float = 0
    retries: int = 3
    store: str | None = None

    def __post_init__(self):
        if self.workers != "auto" and self.workers < 1:
            raise ValueError(f"workers is {self.workers!r}: give a whole number of at least 1, or auto")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads!r}: give a whole number of at least 1, or null")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(f"gpus is {self.gpus:g}: give the GPUs of a worker, such as 0, 1, or 0.5 for half of one")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries!r}: give a whole number, 0 for none")


class BaseExecutor(ABC):
    """Runs tasks on workers.

    Every executor is created as `cls(worker_factory, config)`; it raises ValueError for a configuration that cannot run here. The factory,
    the tasks and the results must be picklable unless `inline` is True.
    """

    inline = False  # True: workers run in the calling process, so results need no check and files no staging

    @abstractmethod
    def __init__(self, worker_factory: WorkerFactory, config: ExecutorConfig): ...

    @abstractmethod
    def imap(self, tasks: Iterable) -> Iterator[tuple[int, Any]]:
        """Yields (number of the task, its result) as tasks finish, each once and in any order.

        Takes a task from `tasks` only when a worker can start it soon, since `tasks` may be a long generator. An exception of a worker is
        raised here with its type and message; ValueError if workers were lost more often than `config.retries` allows.
        """

    @abstractmethod
    def close(self) -> None:
        """Stops the workers and drops unfinished tasks. May be called twice."""


class ShardResult(NamedTuple):
    """The file that a worker wrote for a task, as the worker reports it to the stage."""

    file: Path
    rows: int
    sha256: str

    @classmethod
    def of(cls, file: Path, rows: int) -> "ShardResult":
        """Hashes a file of `rows` rows."""
        return cls(file, rows, file_digest(file))

    def check(self) -> None:
        """Raises ValueError if the file is missing on this machine or has other bytes than the worker wrote."""
        deadline = monotonic() + FILE_TIMEOUT
        while not self.file.exists() and monotonic() < deadline:
            sleep(0.2)
        if not self.file.exists() or file_digest(self.file) != self.sha256:
            raise ValueError(
                f"{self.file} is missing or differs from what a worker wrote: put the project and SUR_WORK on a disk that all machines "
                "share, or set executor.store"
            )


class LazyWorker:
    """A worker in a process of its own, created when the first task arrives.

    load_factory: returns the worker factory. It is called after the environment is set, because unpickling a factory imports torch and
    tqdm, which read their variables on import. num_threads: of torch and OpenMP.
    """

    def __init__(self, load_factory: Callable[[], WorkerFactory], num_threads: int):
        self.load_factory, self.num_threads, self.worker = load_factory, num_threads, None

    def __call__(self, task: Any) -> Any:
        if self.worker is None:
            os.environ |= {"OMP_NUM_THREADS": str(self.num_threads), "TQDM_DISABLE": "1"}  # the stage shows one bar for all workers
            factory = self.load_factory()
            self._set_threads()
            self._keep_freed_memory()
            self.worker = factory()
        self._set_threads()
        return self.worker(task)

    def _set_threads(self) -> None:
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(self.num_threads)

    @staticmethod
    def _keep_freed_memory() -> None:
        if "torch" in sys.modules:
            from sur_adapter.models.torch_utils import keep_freed_memory

            keep_freed_memory()

    def close(self) -> None:
        """Lets the worker remove its temporary files before the process ends."""
        if hasattr(self.worker, "close"):
            self.worker.close()


def num_torch_threads(config: ExecutorConfig) -> int:
    """Returns the number of threads of torch in each worker."""
    if config.threads is not None:
        return config.threads
    import torch  # takes seconds, and not every stage needs it

    return torch.get_num_threads()


def resolve_num_workers(config: ExecutorConfig, num_threads: int, num_cpus: float, num_gpus: float) -> int:
    """Returns the number of workers for the available CPUs and GPUs. Raises ValueError if not even one worker fits."""
    if config.gpus > num_gpus:
        raise ValueError(
            f"params.yaml: executor.gpus is {config.gpus:g}, but {num_gpus:g} GPUs are available: set it to 0, or use a machine with GPUs"
        )
    if config.workers != "auto":
        return config.workers
    return max(1, int(num_gpus / config.gpus if config.gpus else num_cpus / num_threads))
