"""A Ray cluster whose actors are workers (executor.py): one that is there already, or one on this machine for as long as the stage takes.

One of our own listens on loopback alone, shows no dashboard, tells no one of its use, and asks for a token that no file holds. One that is
joined is asked for a token, too, unless RAY_AUTH_MODE says otherwise: without it whoever reaches a Ray port runs what he likes.
"""

import os
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

from sur_adapter.executors.base import Worker, WorkerFactory, resolve_num_workers, threads

TOLD = ("HF_HUB_OFFLINE", "TRANSFORMERS_VERBOSITY")  # to workers on other machines; no secret is among them
FOLDERS = ("HF_HOME", "SUR_WORK")  # told, too, to workers that see them
LEAVING = 10  # seconds that workers may take to clear up


class RayExecutor:
    """An actor whose machine or process is lost is started elsewhere with the task it had, `retries` times; and whoever has nothing left to
    do takes a second copy of what others are still at, of which the first to end counts: both write the same bytes."""

    def __init__(self, make: WorkerFactory, workers: int | str, gpus: float, retries: int, address: str | None, apart: bool = False):
        """apart: whether workers are on machines that see nothing of this one's disk; Ray then brings them the project's code, too."""
        self.ray, self.threads, self.apart = _ray(address), threads(), apart
        self.ours = not self.ray.is_initialized()
        if self.ours:
            _connect(self.ray, address, _code() if apart and address else {})
        try:
            count = self._count(workers, gpus)
            # A task waits for its actor to be started again however long that takes to begin: until Ray knows that a machine is gone, every
            # try counts as one of the task's
            again = {"max_restarts": retries, "max_task_retries": -1 if retries else 0}
            options = {"num_cpus": self.threads, "num_gpus": gpus} | again
            actor = self.ray.remote(**options)(Actor)
            self.made = [self.ray.put(make)]
            told = {name: os.environ[name] for name in (TOLD if apart else TOLD + FOLDERS) if name in os.environ}
            self.actors = [actor.remote(self.threads, None if apart else os.getcwd(), told) for _ in range(count)]
        except BaseException:
            self.close()
            raise
        self.running: dict = {}  # reference -> number of the task and actor; copies that nobody waits for stay from call to call

    def imap(self, tasks: Iterable) -> Iterator[tuple[int, Any]]:
        tasks, open_ = enumerate(tasks), {}
        self.running = {ref: (None, actor) for ref, (_, actor) in self.running.items()}
        while True:
            busy = [actor for _, actor in self.running.values()]
            for actor in (a for a in self.actors if a not in busy):
                if (job := next(tasks, None)) is None and (job := self._straggler(open_)) is None:
                    break
                open_[job[0]] = job[1]
                self.running[actor.work.remote(self.made, job[1])] = job[0], actor
            if not open_:
                return
            for ref in self.ray.wait(list(self.running))[0]:
                number, _ = self.running.pop(ref)
                if number in open_:
                    answer = self._answer(ref)
                    del open_[number]
                    yield number, answer

    def _straggler(self, open_: dict) -> tuple[int, Any] | None:
        """The first of the tasks that one worker alone is at."""
        at = [number for number, _ in self.running.values()]
        return next(((number, task) for number, task in open_.items() if at.count(number) == 1), None)

    def _answer(self, ref):
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except errors.RayTaskError as error:
            raise (error.cause or error) from error
        except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError) as error:
            raise ValueError(
                f"a worker of the cluster was lost more often than executor.retries allows ({type(error).__name__}): look at Ray's logs, set "
                "fewer executor.workers, or a smaller batch of the stage"
            ) from error

    def _count(self, workers: int | str, gpus: float) -> int:
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        there = max((node.get("GPU", 0) for node in nodes), default=0)
        if gpus <= there and not any(node.get("CPU", 0) >= self.threads and node.get("GPU", 0) >= gpus for node in nodes):
            raise ValueError(
                f"no machine of the cluster has {self.threads} processors for each worker, as many as the threads here: set OMP_NUM_THREADS"
            )
        fit = [min(node.get("CPU", 0) // self.threads, node.get("GPU", 0) // gpus if gpus else node.get("CPU", 0)) for node in nodes]
        resolve_num_workers(workers, gpus, self.threads, 1, there)
        return max(1, int(sum(fit))) if workers == "auto" else workers

    def close(self) -> None:
        self._leave()
        for actor in getattr(self, "actors", ()):
            self.ray.kill(actor)
        self.actors, self.running = [], {}
        if self.ours and self.ray.is_initialized():
            self.ray.shutdown()

    def _leave(self) -> None:
        """Those that have nothing to do clear up, where they have something to; whoever is killed cannot."""
        busy = [actor for _, actor in getattr(self, "running", {}).values()]
        left = [actor.leave.remote() for actor in getattr(self, "actors", ()) if self.apart and actor not in busy]
        if left:
            self.ray.wait(left, num_returns=len(left), timeout=LEAVING)


class Actor:
    """Ray's side of a worker: in the stage's own folder, where it sees that, under its settings."""

    def __init__(self, threads: int, folder: str | None, told: dict[str, str]):
        self.threads, self.folder, self.told, self.worker = threads, folder, told, None

    def work(self, made: list, task):
        """made: the reference to what makes the worker, which is asked for no sooner than the settings are there that it reads."""
        if self.worker is None:
            import ray

            os.environ |= self.told
            if self.folder:
                self._enter(self.folder)
            (make,) = ray.get(made)
            self.worker = Worker(make, self.threads)
        return self.worker(task)

    def leave(self) -> None:
        if self.worker:
            self.worker.leave()

    def _enter(self, folder: str) -> None:
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"a machine of the cluster sees no {folder}: put the project on a disk that all machines see, or name an executor.store"
            )
        os.chdir(folder)
        sys.path[:0] = [] if folder in sys.path else [folder]


def _ray(address: str | None):
    if not find_spec("ray"):
        raise ValueError("params.yaml: executor.kind is 'ray', which needs the package ray: install it, or choose processes")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # gpus: 0 hides none, as elsewhere
    if address is None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's word for loopback alone, on any system
    import ray

    return ray


def _code() -> dict:
    """The packages that this process has from the folder it runs in, as Ray takes them along."""
    folders = [folder for name, module in sys.modules.items() if "." not in name for folder in getattr(module, "__path__", ())]
    return {"runtime_env": {"py_modules": [f for f in folders if os.path.dirname(f) == os.getcwd()], "excludes": ["**/__pycache__"]}}


def _connect(ray, address: str | None, code: dict) -> None:
    try:
        if address and (host := address.rpartition("/")[2]).count(":") == 1:  # Ray itself would knock for minutes
            socket.create_connection(tuple(host.split(":")), timeout=10).close()
        ray.init(
            address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else {"include_dashboard": False}), **code
        )
    except Exception as error:  # Ray's own are of many kinds, some of none
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"params.yaml: executor.address is {address!r}, where no Ray cluster answers ({said}): start one by `ray start --head` "
            "with the same RAY_AUTH_TOKEN, or set it to null"
        ) from error
