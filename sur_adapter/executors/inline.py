"""Runs the worker in the calling process."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sur_adapter.executors.base import BaseExecutor, ExecutorConfig, WorkerFactory


class InlineExecutor(BaseExecutor):
    """One worker, in the process of the stage."""

    inline = True

    def __init__(self, worker_factory: WorkerFactory, config: ExecutorConfig):
        self.worker_factory, self.num_threads, self.worker = worker_factory, config.threads, None

    def imap(self, tasks: Iterable) -> Iterator[tuple[int, Any]]:
        for number, task in enumerate(tasks):
            self.worker = self.worker or self.worker_factory()
            with torch_threads(self.num_threads):
                result = self.worker(task)
            yield number, result

    def close(self) -> None:
        self.worker = None


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Computes with so many threads of torch, if it is loaded; None: as many as before."""
    torch = sys.modules.get("torch")
    if torch is None or number is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
