"""Runs the worker in the calling process."""

from collections.abc import Iterable, Iterator
from typing import Any

from sur_adapter.executors.base import WorkerFactory


class InlineExecutor:
    def __init__(self, make: WorkerFactory):
        self.make, self.do = make, None

    def imap(self, tasks: Iterable) -> Iterator[tuple[int, Any]]:
        for number, task in enumerate(tasks):
            self.do = self.do or self.make()
            yield number, self.do(task)

    def close(self) -> None:
        self.do = None
