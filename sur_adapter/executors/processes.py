"""Runs workers in several processes of this machine. The processes end with the stage, however the stage ends."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from itertools import islice
from threading import Thread
from typing import Any

from sur_adapter.executors.base import BaseExecutor, ExecutorConfig, LazyWorker, WorkerFactory, num_torch_threads, resolve_num_workers


class ProcessExecutor(BaseExecutor):
    """A process pool that is created again when the system kills one of its processes, as it does when memory runs out."""

    def __init__(self, worker_factory: WorkerFactory, config: ExecutorConfig):
        self.num_threads = num_torch_threads(config)
        self.num_workers = resolve_num_workers(config, self.num_threads, os.cpu_count(), _num_gpus() if config.gpus else 0)
        self.worker_factory, self.config = worker_factory, config
        self.pool, self.num_running = None, 0

    def imap(self, tasks: Iterable) -> Iterator[tuple[int, Any]]:
        tasks, running, failures = enumerate(tasks), {}, 0
        while True:
            running |= {number: (task, None) for number, task in islice(tasks, 2 * self.num_workers - len(running))}
            self.num_running = len(running)
            if not running:
                return
            self.pool = self.pool or self._start_pool()
            try:
                running = {number: (task, future or self.pool.submit(_run_task, task)) for number, (task, future) in running.items()}
                wait([future for _, future in running.values()], return_when=FIRST_COMPLETED)
                for number in [n for n, (_, future) in running.items() if future.done()]:
                    result = running[number][1].result()
                    del running[number]
                    yield number, result
            except BrokenProcessPool as error:
                self.close()
                running = {number: (task, None) for number, (task, _) in running.items()}
                if (failures := failures + 1) > self.config.retries:
                    raise ValueError(
                        f"worker processes were killed {failures} times, perhaps for lack of memory: set fewer executor.workers, or a "
                        "smaller batch size of the stage"
                    ) from error

    def _start_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # CUDA does not support fork
        reader, self.stage_alive = context.Pipe(duplex=False)
        ranks = context.SimpleQueue()
        for rank in range(self.num_workers):
            ranks.put(rank)
        factory = pickle.dumps(self.worker_factory)  # unpickled in the worker, after its environment is set
        return ProcessPoolExecutor(self.num_workers, context, _start_worker, (factory, self.num_threads, self.config.gpus, ranks, reader))

    def close(self) -> None:
        if self.pool:
            if not self.num_running:
                self.pool.shutdown()  # idle workers end by themselves
            self.stage_alive.close()  # the others end at once
            self.pool.shutdown(cancel_futures=True)
            self.pool, self.num_running = None, 0


def _num_gpus() -> int:
    import torch  # takes seconds

    return torch.cuda.device_count()


def _start_worker(factory: bytes, num_threads: int, gpus: float, ranks, stage_alive) -> None:
    """Initializes a worker process: selects its GPUs, and ends it when the stage's process ends."""
    global _worker
    if gpus:
        per_worker = max(1, int(gpus))
        first, visible = int(ranks.get() * gpus), os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(k) for k in range(first + per_worker)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[(first + k) % len(devices)] for k in range(per_worker))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C interrupts the stage, which then closes the pool
    Thread(target=_exit_with_stage, args=(stage_alive,), daemon=True).start()
    _worker = LazyWorker(partial(pickle.loads, factory), num_threads)


def _exit_with_stage(stage_alive) -> None:
    try:
        stage_alive.recv()
    except (EOFError, OSError):
        with suppress(Exception):  # the process must end even if this fails
            _worker.close()
        os._exit(1)


def _run_task(task: Any) -> Any:
    return _worker(task)
