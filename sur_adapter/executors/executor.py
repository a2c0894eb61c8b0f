"""Runs the tasks of a stage: in this process, in several processes of this machine, or on a Ray cluster. Outputs are the same bytes.

    with Executor(partial(CaptionWorker, work, raw), config=ExecutorConfig(kind="processes", workers=4)) as executor:
        for result in executor.map(shard_numbers):
            ...

Tasks and results are small. A worker writes its file into the stage's work cache (io/work_cache.py) under its final name, where all
machines see it, so a killed run resumes after the finished shards under any executor. Workers that share no file system with the stage
get and return files through a store (staging.py).

On a CPU, sums depend on the number of threads. So every worker uses `config.threads` of them, or as many as this process does.
"""

from collections.abc import Iterable, Iterator
from importlib import import_module

from tqdm import tqdm

from sur_adapter.executors.base import ExecutorConfig, InputFiles, ShardResult, WorkerFactory

EXECUTORS = {  # kind: (module, class); only the chosen one is imported, since Ray and torch take seconds
    "inline": ("sur_adapter.executors.inline", "InlineExecutor"),
    "processes": ("sur_adapter.executors.processes", "ProcessExecutor"),
    "ray": ("sur_adapter.executors.ray", "RayExecutor"),
}


class Executor:
    """Runs the tasks of a stage on workers and yields their results in the order of the tasks.

    worker_factory: creates a worker. input_files: the files that a worker reads for a task, which are staged if `config.store` is set.
    Raises ValueError for a configuration that cannot run here.
    """

    def __init__(self, worker_factory: WorkerFactory, input_files: InputFiles = lambda task: (), config: ExecutorConfig | None = None):
        config = config or ExecutorConfig()
        module, name = EXECUTORS[config.kind]
        backend = getattr(import_module(module), name)
        self.inline, self.staging = backend.inline, None
        if config.store is not None:
            from sur_adapter.executors.staging import FileStaging

            staging = FileStaging(config.store, input_files)  # inline too: a wrong address is refused under every kind
            if not self.inline:
                self.staging, worker_factory = staging, staging.wrap(worker_factory)
        self._backend = backend(worker_factory, config)

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Stops the workers and drops unfinished tasks."""
        self._backend.close()

    def map(self, tasks: Iterable, name: str = "") -> Iterator:
        """Yields the results in the order of `tasks`, which are taken only when a worker can start them soon.

        An exception of a worker is raised here. name: label of the progress bar, which is shown if the workers show none of their own.
        """
        total = len(tasks) if hasattr(tasks, "__len__") else None
        if self.staging:
            tasks = map(self.staging.upload, tasks)
        with tqdm(desc=name, total=total, unit="shard", disable=True if self.inline or not name else None) as bar:
            finished, next_number = {}, 0
            for number, result in self._backend.imap(tasks):
                for written in () if self.inline else result if isinstance(result, list) else [result]:
                    if isinstance(written, ShardResult):
                        self.staging.download(written) if self.staging else written.check()
                bar.update()
                finished[number] = result
                while next_number in finished:
                    yield finished.pop(next_number)
                    next_number += 1
