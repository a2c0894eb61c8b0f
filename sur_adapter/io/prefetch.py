"""Work that is got ready while other work goes on: the next pictures are decoded while the model looks at the last."""

from collections.abc import Iterable, Iterator
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
END = object()


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items in the same order, up to `depth` of them made before they are asked for, in one thread.

    What goes wrong while an item is made is raised where it is asked for. Whoever stops early stops the thread too.
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
    except BaseException as raised:  # noqa: BLE001 - it is not swallowed but handed over
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
