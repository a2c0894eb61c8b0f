"""Runs the worker in the calling process."""

from collections.abc import Iterable, Iterator
from typing import Any

from sur_adapter.executors.base import BaseExecutor, ExecutorConfig, WorkerFactory


class InlineExecutor(BaseExecutor):
    """One worker, in the process of the stage."""

    inline = True

    def __init__(self, worker_factory: WorkerFactory, config: ExecutorConfig):
        self.worker_factory, self.worker = worker_factory, None

    def imap(self, tasks: Iterable) -> Iterator[tuple[int, Any]]:
        for number, task in enumerate(tasks):
            self.worker = self.worker or self.worker_factory()
            yield number, self.worker(task)

    def close(self) -> None:
        self.worker = None
