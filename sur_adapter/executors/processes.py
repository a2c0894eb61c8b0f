"""Several processes of this machine, each with a worker (executor.py) of its own; none outlives the stage, however that ends."""

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from threading import Thread
from typing import Any

from sur_adapter.executors.base import Worker, WorkerFactory, resolve_num_workers, threads


class ProcessExecutor:
    """A pool that is made anew when the system kills one of its processes, as it does where memory runs out."""

    def __init__(self, make: WorkerFactory, workers: int | str, gpus: float, retries: int):
        self.threads = threads()
        self.workers = resolve_num_workers(workers, gpus, self.threads, os.cpu_count(), _gpus())
        self.make, self.gpus, self.retries = make, gpus, retries
        self.pool = None

    def imap(self, tasks: Iterable) -> Iterator[tuple[int, Any]]:
        tasks, running, lost = enumerate(tasks), {}, 0
        while True:
            running |= {number: (task, None) for number, task in islice(tasks, 2 * self.workers - len(running))}
            if not running:
                return
            self.pool = self.pool or self._pool()
            try:
                running = {number: (task, future or self.pool.submit(_work, task)) for number, (task, future) in running.items()}
                wait([future for _, future in running.values()], return_when=FIRST_COMPLETED)
                for number in [n for n, (_, future) in running.items() if future.done()]:
                    answer = running[number][1].result()
                    del running[number]
                    yield number, answer
            except BrokenProcessPool as error:
                self.close()
                running = {number: (task, None) for number, (task, _) in running.items()}
                if (lost := lost + 1) > self.retries:
                    raise ValueError(
                        f"processes of this stage were killed {lost} times, for lack of memory, perhaps: set fewer executor.workers, or a "
                        "smaller batch of the stage"
                    ) from error

    def _pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # CUDA bears no fork
        reader, self.alive = context.Pipe(duplex=False)
        numbers = context.SimpleQueue()
        for number in range(self.workers):
            numbers.put(number)
        return ProcessPoolExecutor(self.workers, context, _begin, (self.make, self.threads, self.gpus, numbers, reader))

    def close(self) -> None:
        """Whatever still runs is let go: what it finished is kept."""
        if self.pool:
            self.alive.close()
            self.pool.shutdown(cancel_futures=True)
            self.pool = None


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _begin(make: WorkerFactory, threads: int, gpus: float, numbers, alive) -> None:
    """In a new process: its GPUs, and its end when the stage's own process has ended, however that came about."""
    global _worker
    if gpus:
        first, names = int(numbers.get() * gpus), os.environ.get("CUDA_VISIBLE_DEVICES")
        names = names.split(",") if names else [str(k) for k in range(first + max(1, int(gpus)))]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[(first + k) % len(names)] for k in range(max(1, int(gpus))))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is interrupted is the stage
    Thread(target=_leave, args=(alive,), daemon=True).start()
    _worker = Worker(make, threads)


def _leave(alive) -> None:
    try:
        alive.recv()
    except (EOFError, OSError):
        with suppress(Exception):  # it ends, whatever else goes wrong
            _worker.leave()
        os._exit(1)


def _work(task):
    return _worker(task)
