"""Prepares items in a background thread, e.g. decodes the next images while the model runs on the current batch."""

from collections.abc import Iterable, Iterator
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
END = object()


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yields the same items in the same order; one thread computes up to `depth` of them in advance.

    An exception while an item is computed is raised where that item would be yielded. Closing the iterator stops the thread.
    """
    ready: Queue = Queue(depth)
    stop = Event()
    Thread(target=_fill, args=(items, ready, stop), daemon=True).start()
    try:
        while (item := ready.get())[0] is not END:
            yield item[1]
        if item[1] is not None:
            raise item[1]
    finally:
        stop.set()


def _fill(items: Iterable, ready: Queue, stop: Event) -> None:
    error = None
    try:
        for item in items:
            if not _put(ready, (None, item), stop):
                return
    except BaseException as raised:  # noqa: BLE001 - passed on to the consumer
        error = raised
    _put(ready, (END, error), stop)


def _put(ready: Queue, item: tuple, stop: Event) -> bool:
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except Full:
            continue
    return False
