"""Where the shards of a stage are worked on: in this process, in several of this machine, or on a Ray cluster. The bits are the same.

    with Executor(partial(Captions, work, raw), config=ExecutorConfig(kind="processes", workers=4)) as executor:
        for result in executor.map(numbers):
            ...

What the first argument makes is a worker: it holds the models, is made once in each process when the first task comes, and is called with
one task after another. Tasks and answers are small. What is made lies in the stage's work folder (work.py) under its final name, where all
machines see it, so that a killed run goes on after what is finished, whichever executor began it. Machines that see no disk in common have a
store instead (haul.py).

Numbers on a CPU may differ by the number of threads that add them up. So every worker reckons with as many as this process would.
"""

from collections.abc import Iterable, Iterator

from tqdm import tqdm

from sur_adapter.executors.base import ExecutorConfig, InputFiles, ShardResult, WorkerFactory
from sur_adapter.executors.inline import InlineExecutor


class Executor:
    """Runs the tasks of a stage on workers and yields their results in order.

    make: makes a worker. reads: the input files of a task, which `config.store` sends to workers that do not share a file system.
    Raises ValueError for a configuration that cannot run here.
    """

    def __init__(self, make: WorkerFactory, reads: InputFiles = lambda task: (), config: ExecutorConfig | None = None):
        config = config or ExecutorConfig()
        self.inline, self.staging = config.kind == "inline", None
        if config.store is not None:
            from sur_adapter.executors.staging import FileStaging

            self.staging = FileStaging(config.store, reads)
            make = make if self.inline else self.staging.maker(make)
        if self.inline:
            self._run = InlineExecutor(make)
        elif config.kind == "processes":
            from sur_adapter.executors.processes import ProcessExecutor

            self._run = ProcessExecutor(make, config.workers, config.gpus, config.retries)
        else:
            from sur_adapter.executors.ray import RayExecutor  # imports Ray, which takes seconds

            self._run = RayExecutor(make, config.workers, config.gpus, config.retries, config.address, apart=config.store is not None)

    def __enter__(self) -> "Executor":
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
            for number, answer in self._run.imap(self.staging.sent(tasks) if self.staging and not self.inline else tasks):
                if isinstance(answer, ShardResult) and not self.inline:
                    self.staging.received(answer.file, answer.sha256) if self.staging else answer.check()
                bar.update()
                waiting[number] = answer
                while told in waiting:
                    yield waiting.pop(told)
                    told += 1
