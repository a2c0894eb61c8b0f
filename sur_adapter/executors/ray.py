"""Runs workers as actors of a Ray cluster: an existing one, or one on this machine for as long as the stage runs.

A cluster that is started here listens on loopback only, has no dashboard, sends no usage statistics and requires a token that is in no
file. Joining a cluster requires a token too, unless RAY_AUTH_MODE says otherwise: without a token, anyone who can reach a Ray port can
execute code.
"""

import os
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

from sur_adapter.executors.base import BaseExecutor, ExecutorConfig, LazyWorker, WorkerFactory, num_torch_threads, resolve_num_workers

WORKER_ENV = ("HF_HUB_OFFLINE", "TRANSFORMERS_VERBOSITY")  # copied to workers on other machines; none is a secret
SHARED_FS_ENV = ("HF_HOME", "SUR_WORK")  # copied too if workers share the file system
CLOSE_TIMEOUT = 10  # seconds for workers to remove their temporary files


class RayExecutor(BaseExecutor):
    """Restarts an actor whose machine or process is lost, with its task, up to `config.retries` times.

    When no task is left to start, idle workers run second copies of unfinished tasks; the first to finish counts, and both write the same
    bytes. With `config.store`, workers are on machines that do not share the file system; Ray then brings them the project's code too.
    """

    def __init__(self, worker_factory: WorkerFactory, config: ExecutorConfig):
        self.ray, self.num_threads, self.shared_fs = _import_ray(config.address), num_torch_threads(config), config.store is None
        self.owns_cluster = not self.ray.is_initialized()
        if self.owns_cluster:
            _connect(self.ray, config.address, {} if self.shared_fs or not config.address else _project_code())
        try:
            count = self._num_workers(config)
            # A task waits until its actor is started again, however long that takes: until Ray knows that a machine is gone, every attempt
            # counts as a retry of the task
            restarts = {"max_restarts": config.retries, "max_task_retries": -1 if config.retries else 0}
            actor = self.ray.remote(num_cpus=self.num_threads, num_gpus=config.gpus, **restarts)(Actor)
            self.factory_ref = [self.ray.put(worker_factory)]  # in a list, so that Ray does not load it before the actor asks for it
            names = WORKER_ENV + SHARED_FS_ENV if self.shared_fs else WORKER_ENV
            env = {name: os.environ[name] for name in names if name in os.environ}
            self.actors = [actor.remote(self.num_threads, os.getcwd() if self.shared_fs else None, env) for _ in range(count)]
        except BaseException:
            self.close()
            raise
        self.running: dict = {}  # ref -> (number of the task, actor); also second copies of finished tasks, which may still run

    def imap(self, tasks: Iterable) -> Iterator[tuple[int, Any]]:
        tasks, unfinished = enumerate(tasks), {}
        self.running = {ref: (None, actor) for ref, (_, actor) in self.running.items()}
        while True:
            busy = [actor for _, actor in self.running.values()]
            for actor in (a for a in self.actors if a not in busy):
                if (item := next(tasks, None)) is None and (item := self._straggler(unfinished)) is None:
                    break
                number, task = item
                unfinished[number] = task
                self.running[actor.run.remote(self.factory_ref, task)] = number, actor
            if not unfinished:
                return
            for ref in self.ray.wait(list(self.running))[0]:
                number, _ = self.running.pop(ref)
                if number in unfinished:
                    result = self._result(ref)
                    del unfinished[number]
                    yield number, result

    def _straggler(self, unfinished: dict) -> tuple[int, Any] | None:
        """Returns the first unfinished task that only one worker runs."""
        numbers = [number for number, _ in self.running.values()]
        return next(((number, task) for number, task in unfinished.items() if numbers.count(number) == 1), None)

    def _result(self, ref) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except errors.RayTaskError as error:
            raise (error.cause or error) from error
        except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError) as error:
            raise ValueError(
                f"a worker of the cluster was lost more often than executor.retries allows ({type(error).__name__}): see Ray's logs, set "
                "fewer executor.workers, or a smaller batch size of the stage"
            ) from error

    def _num_workers(self, config: ExecutorConfig) -> int:
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        cpus, gpus = [[node.get(kind, 0) for node in nodes] for kind in ("CPU", "GPU")]
        max_gpus = max(gpus, default=0)
        fits = [cpu >= self.num_threads and gpu >= config.gpus for cpu, gpu in zip(cpus, gpus, strict=True)]
        if config.gpus <= max_gpus and not any(fits):
            raise ValueError(
                f"no machine of the cluster has {self.num_threads} CPUs for each worker, one for each of its threads: set executor.threads"
            )
        workers = resolve_num_workers(config, self.num_threads, 1, max_gpus)
        if config.workers != "auto":
            return workers
        by_cpu = [cpu // self.num_threads for cpu in cpus]
        return max(1, int(sum(min(n, gpu // config.gpus) if config.gpus else n for n, gpu in zip(by_cpu, gpus, strict=True))))

    def close(self) -> None:
        self._close_workers()
        for actor in getattr(self, "actors", ()):
            self.ray.kill(actor)
        self.actors, self.running = [], {}
        if self.owns_cluster and self.ray.is_initialized():
            self.ray.shutdown()

    def _close_workers(self) -> None:
        """Lets idle workers remove their scratch folders before their actors are killed."""
        busy = [actor for _, actor in getattr(self, "running", {}).values()]
        closing = [actor.close.remote() for actor in getattr(self, "actors", ()) if not self.shared_fs and actor not in busy]
        if closing:
            self.ray.wait(closing, num_returns=len(closing), timeout=CLOSE_TIMEOUT)


class Actor:
    """A worker in a process of Ray. working_dir: the stage's, or None where it does not exist. env: variables of the stage."""

    def __init__(self, num_threads: int, working_dir: str | None, env: dict[str, str]):
        self.num_threads, self.working_dir, self.env, self.worker = num_threads, working_dir, env, None

    def run(self, factory_ref: list, task: Any) -> Any:
        """Runs a task. factory_ref: the reference to the worker factory, which is loaded after the environment is set."""
        if self.worker is None:
            os.environ |= self.env
            if self.working_dir:
                self._enter(self.working_dir)
            self.worker = LazyWorker(lambda: _load(factory_ref), self.num_threads)
        return self.worker(task)

    def close(self) -> None:
        if self.worker:
            self.worker.close()

    def _enter(self, folder: str) -> None:
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"{folder} does not exist on a machine of the cluster: put the project on a disk that all machines share, or set "
                "executor.store"
            )
        os.chdir(folder)
        sys.path[:0] = [] if folder in sys.path else [folder]


def _load(factory_ref: list) -> WorkerFactory:
    import ray

    (factory,) = ray.get(factory_ref)
    return factory


def _import_ray(address: str | None):
    if not find_spec("ray"):
        raise ValueError("params.yaml: executor.kind is 'ray', which needs the package ray: install it, or choose processes")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # gpus: 0 hides no GPU, as in the other executors
    if address is None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # makes Ray listen on loopback only, on any system
    import ray

    return ray


def _project_code() -> dict:
    """Lists the imported packages of the working directory, as a runtime environment of Ray."""
    folders = [folder for name, module in sys.modules.items() if "." not in name for folder in getattr(module, "__path__", ())]
    return {"runtime_env": {"py_modules": [f for f in folders if os.path.dirname(f) == os.getcwd()], "excludes": ["**/__pycache__"]}}


def _connect(ray, address: str | None, runtime_env: dict) -> None:
    try:
        if address and (host := address.rpartition("/")[2]).count(":") == 1:  # Ray itself would try for minutes
            socket.create_connection(tuple(host.split(":")), timeout=10).close()
        options = {} if address else {"include_dashboard": False}
        ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **options, **runtime_env)
    except Exception as error:  # Ray raises many types, some of them plain Exception
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"params.yaml: executor.address is {address!r}, where no Ray cluster answers ({reason}): start one with `ray start --head` "
            "and the same RAY_AUTH_TOKEN, or set it to null"
        ) from error
