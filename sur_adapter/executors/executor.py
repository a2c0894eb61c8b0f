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

from collections.abc import Iterable, Iterator

from tqdm import tqdm

from sur_adapter.config import choose
from sur_adapter.executors.base import InputFiles, ShardResult, WorkerFactory
from sur_adapter.executors.inline import InlineExecutor

KINDS = ("inline", "processes", "ray")


class Executor:
    """kind: inline, processes or ray. workers: how many, or auto: as many as the GPUs, else the processors, suffice for. gpus: of each
    worker; 0 leaves all to all. address: of a Ray cluster, `auto` for that of this machine, null starts one. retries: how often work whose
    worker was lost is given to another. store: an address of fsspec through which files go to workers and back; null: all see one disk.
    reads: what goes there; this process itself needs no store.

    Raises ValueError for what cannot be.
    """

    def __init__(
        self,
        make: WorkerFactory,
        reads: InputFiles = lambda task: (),
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
            from sur_adapter.executors.staging import FileStaging

            self.haul = FileStaging(store, reads)
            make = make if self.inline else self.haul.maker(make)
        if self.inline:
            self._run = InlineExecutor(make)
        elif kind == "processes":
            from sur_adapter.executors.processes import ProcessExecutor

            self._run = ProcessExecutor(make, workers, gpus, retries)
        else:
            from sur_adapter.executors.ray import RayExecutor  # and with it Ray, which nobody else waits for

            self._run = RayExecutor(make, workers, gpus, retries, address, apart=store is not None)

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
            for number, answer in self._run.imap(self.haul.sent(tasks) if self.haul and not self.inline else tasks):
                if isinstance(answer, ShardResult) and not self.inline:
                    self.haul.received(answer.file, answer.sha256) if self.haul else answer.check()
                bar.update()
                waiting[number] = answer
                while told in waiting:
                    yield waiting.pop(told)
                    told += 1
