"""On a Ray cluster a stage writes the bytes of one process, even when a machine is lost."""

import os
import secrets
import threading
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch
from helpers.executor_workers import Parity, Peek
from helpers.repository import ROOT
from helpers.small_models import digest
from helpers.stages import caption

from sur_adapter.executors.base import ExecutorConfig, num_torch_threads
from sur_adapter.executors.executor import Executor
from sur_adapter.executors.ray import _project_code
from sur_adapter.io.work_cache import WorkCache, work_dir

pytestmark = [
    pytest.mark.usefixtures("own_work"),
    pytest.mark.skipif(not find_spec("ray"), reason="ray is not installed: pip install -r requirements-dev.txt"),
]


@pytest.fixture(scope="module", autouse=True)
def secured():
    """Settings of all clusters in this file: a token, loopback, no usage statistics. Ray reads them when it is first imported."""
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where a worker finds the package `helpers`
        for name, value in (settings | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}).items():
            patched.setenv(name, value)
        yield


def add_node(cluster, **options):
    """Adds a machine to a cluster. Ray allows it half a minute to start, which is too short on a busy machine."""
    for attempts_left in (2, 1, 0):
        try:
            return cluster.add_node(**options)
        except Exception:
            if not attempts_left:
                raise
    return None


def test_captions_are_the_same_bytes_when_one_of_two_machines_is_lost(shards, models, tmp_path):
    from ray.cluster_utils import Cluster

    rules = {"model": str(models / "blip"), "top_p": 0.9, "batch_size": 3}
    caption(shards / "s", tmp_path / "inline", caption=rules)
    cluster = Cluster()
    _, lost = (add_node(cluster, num_cpus=num_torch_threads(ExecutorConfig()), **more) for more in ({"include_dashboard": False}, {}))
    finished: list = []

    def kill() -> None:
        while not finished:
            time.sleep(0.01)
            finished.extend(work_dir().glob("caption-*/captions-*"))
        cluster.remove_node(lost, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        caption(shards / "s", tmp_path / "ray", caption=rules, executor={"kind": "ray", "address": cluster.address})
        killer.join()
    finally:
        finished.append(None)
        cluster.shutdown()
    assert len(digest(tmp_path / "inline")) == 10 and len(finished) < 5, "the machine is lost during the stage"
    assert digest(tmp_path / "ray") == digest(tmp_path / "inline")


@pytest.fixture
def one_thread():
    """Two workers fit on a machine with two CPUs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_an_own_cluster_listens_on_loopback_only_and_restarts_a_worker_that_died(one_thread, tmp_path, monkeypatch):
    with Executor(partial(Parity, tmp_path), config=ExecutorConfig(kind="ray", workers=1, retries=1)) as executor:
        (_, before), (number, after) = executor.map([6, 8])
        assert number == 8 and (tmp_path / "killed").exists() and len({os.getpid(), before, after}) == 3
        children = psutil.Process().children(recursive=True)
        ports = [c.laddr.ip for process in children for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert ports and set(ports) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        with pytest.raises(FileNotFoundError, match="^seven is odd: give an even number$"):
            list(executor.map([7]))
        monkeypatch.chdir(tmp_path)
        run_without_shared_fs(tmp_path)


def run_without_shared_fs(folder: Path) -> None:
    """With a store, a worker of the running cluster sees only the files of its task, and its result comes back."""
    (folder / "a").write_text("here")
    (folder / "b").write_text("not an input")
    config = ExecutorConfig(kind="ray", workers=1, store=f"file://{folder}/store")
    with (
        WorkCache("peek") as work,
        Executor(partial(Peek, work, "/"), lambda name: [Path(name)], config=config) as executor,
    ):
        (text, seen, _, where), made = executor.map(["a", "three="])
        assert (text, seen) == ("here", ["a"]) and where != str(folder) and where.endswith(str(folder))
        assert made.file == work.folder / "three=" and made.file.read_bytes() == b"made"
    assert not Path(where).exists()


def test_an_address_without_a_cluster_is_reported_in_one_sentence(tmp_path):
    with pytest.raises(
        ValueError, match="executor.address is '127.0.0.1:1', where no Ray cluster answers .*: start one with `ray start --head`"
    ):
        Executor(partial(Parity, tmp_path), config=ExecutorConfig(kind="ray", address="127.0.0.1:1"))


def test_machines_without_the_projects_folder_get_its_packages_and_nothing_else():
    brought = _project_code()["runtime_env"]["py_modules"]
    assert {Path(folder).name for folder in brought} >= {"stages", "sur_adapter"} and {Path(folder).parent for folder in brought} == {ROOT}
