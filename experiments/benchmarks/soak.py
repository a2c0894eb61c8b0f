"""Whether cost per row and memory stay flat in a long run, from its first quarter to its last.

    python -m experiments.benchmarks.soak reading 100000            # samples through the trainer's reader, each once
    python -m experiments.benchmarks.soak filter 50000 200000       # rows through filter, one run per size
    python -m experiments.benchmarks.soak crawl 10000               # images from a server on this machine through the crawler

Writes soak-<part>.json beside this file. The filter holds a whole table in memory, so there the cost per row must stay flat from size
to size. Costs are CPU time, and memory is private memory of this process: other load changes neither by much. `cost_last_to_first` and
`memory_last_to_second` compare quarters of the run: 1 is flat.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import wraps
from itertools import pairwise
from multiprocessing import Process, Queue, get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from experiments.benchmarks import crawl as crawling
from experiments.benchmarks import filter as filtering
from experiments.benchmarks import reading
from sur_adapter.data.sources import civitai
from sur_adapter.features.store import FeatureSplit, FeatureStore
from sur_adapter.training.dataset import FeatureDataset

MARKS = 400  # at least, per run, if it has as many rows


class Watch:
    """Records rows done, CPU time and memory while rows pass."""

    def __init__(self):
        self.marks: list[tuple[int, float, int]] = []  # rows, CPU seconds, bytes

    def mark(self, done: int) -> None:
        self.marks.append((done, time.process_time(), reading.private_memory()))

    def passing(self, rows: Iterable, count: int) -> Iterator:
        step = max(1, count // MARKS)
        self.mark(0)
        for done, row in enumerate(rows, 1):
            yield row
            if done % step == 0:
                self.mark(done)

    def figures(self) -> dict:
        """Figures by quarter of the rows."""
        done, seconds, held = (np.array(column, float) for column in zip(*self.marks, strict=True))
        cuts = np.searchsorted(done, np.linspace(0, done[-1], 5))
        cost = [1000 * (seconds[b] - seconds[a]) / (done[b] - done[a]) for a, b in pairwise(cuts)]
        memory = [held[a + 1 : b + 1].mean() / 1e6 for a, b in pairwise(cuts)]
        return {
            "rows": int(done[-1]),
            "cpu_ms_a_row_by_quarter": [round(c, 4) for c in cost],
            "private_megabytes_by_quarter": [round(m, 1) for m in memory],
            "private_megabytes_at_most": round(held.max() / 1e6, 1),
            "cost_last_to_first": round(cost[3] / cost[0], 3),
            "memory_last_to_second": round(memory[3] / memory[1], 3),
        }


def soak_reading(count: int) -> dict:
    """Reads each sample once, in random batches, as a training does."""
    watch = Watch()
    with TemporaryDirectory() as folder:
        reading.make(Path(folder), count, reading.NARROW)
        cached = FeatureDataset(FeatureSplit([FeatureStore(Path(folder, name)) for name in ("clip", "llm")], "train"), ["layer_31"])
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        read = 0
        for batch in watch.passing(order.split(reading.BATCH), -(-count // reading.BATCH)):
            read += len(cached.rows(batch, "cpu").simple)
    assert read == count
    figures = watch.figures()
    return {"samples": count, "batch": reading.BATCH, "text_width": reading.NARROW, "batches": figures.pop("rows")} | {
        key.replace("a_row", "a_batch"): value for key, value in figures.items()
    }


def soak_filter(*counts: int) -> dict:
    """Filters with near-equal prompts grouped, which costs more."""
    runs = []
    for count in sorted(counts):
        with TemporaryDirectory() as folder, _fresh_process() as process:
            filtering.make(Path(folder), count)
            figures = process.submit(filtering.measure, Path(folder), filtering.OVERLAPS["near"]).result()
        cost, held = 1000 * figures["cpu_seconds"] / count, 1e6 * figures["most_memory_GB"] / count
        runs.append({"rows": count, "cpu_ms_a_row": round(cost, 4), "kilobytes_a_row": round(held, 2)} | figures)
    return {"runs": runs, "cost_last_to_first": round(runs[-1]["cpu_ms_a_row"] / runs[0]["cpu_ms_a_row"], 3)}


def soak_crawl(count: int) -> dict:
    port: Queue = Queue()
    server = Process(target=crawling.serve, args=(port,), daemon=True)
    server.start()
    number, size = port.get()
    with _fresh_process() as process:
        figures = process.submit(crawl, number, count).result()
    server.kill()
    return {"bytes_per_picture": size} | figures


def crawl(port: int, count: int) -> dict:
    """Crawls in this process and records the rows that the source yields."""
    watch, rows = Watch(), civitai.rows

    @wraps(rows)
    def watched(*args, **kwargs) -> Iterator[dict]:
        yield from watch.passing(rows(*args, **kwargs), count)

    civitai.rows = watched
    with TemporaryDirectory() as work:
        os.environ |= {"SUR_WORK": work, "TQDM_DISABLE": "1"}
        crawling.measure(port, count)
    return watch.figures()


def _fresh_process() -> ProcessPoolExecutor:
    """Returns a pool that starts a new process for each task."""
    return ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1)


PARTS: dict[str, Callable[..., dict]] = {"reading": soak_reading, "filter": soak_filter, "crawl": soak_crawl}


def main(part: str, *counts: int) -> None:
    torch.set_num_threads(1)  # on a busy machine, threads that wait for each other would add CPU time
    figures = json.dumps(PARTS[part](*counts), indent=2)
    Path(__file__).with_name(f"soak-{part}.json").write_text(figures + "\n")
    print(figures)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
