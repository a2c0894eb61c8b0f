"""On a Ray cluster a stage ends in the bytes of one process, whatever becomes of the machines."""

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

from sur_adapter.executors.base import ExecutorConfig, threads
from sur_adapter.executors.executor import Executor
from sur_adapter.executors.ray import _code
from sur_adapter.io.work_cache import WorkCache, work_dir

pytestmark = [
    pytest.mark.usefixtures("own_work"),
    pytest.mark.skipif(not find_spec("ray"), reason="ray is not installed: pip install -r requirements-dev.txt"),
]


@pytest.fixture(scope="module", autouse=True)
def secured():
    """Of all clusters here: a token, loopback, nobody told. Ray reads these when it is first imported."""
    told = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where a worker finds `parity`
        for name, value in (told | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}).items():
            patched.setenv(name, value)
        yield


def started(cluster, **about):
    """A machine of a cluster; Ray gives one half a minute to start, which is too little where much else goes on."""
    for patience in (2, 1, 0):
        try:
            return cluster.add_node(**about)
        except Exception:
            if not patience:
                raise
    return None


def test_of_two_machines_one_is_lost_amid_captioning_and_the_captions_are_those_of_one_process(shards, models, tmp_path):
    from ray.cluster_utils import RayExecutor

    rules = {"model": str(models / "blip"), "top_p": 0.9, "batch": 3}
    caption(shards / "s", tmp_path / "inline", caption=rules)
    cluster = RayExecutor()
    _, lost = (started(cluster, num_cpus=threads(), **more) for more in ({"include_dashboard": False}, {}))
    left: list = []

    def kill() -> None:
        while not left:
            time.sleep(0.01)
            left.extend(work_dir().glob("caption-*/captions-*"))
        cluster.remove_node(lost, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        caption(shards / "s", tmp_path / "ray", caption=rules, executor={"kind": "ray", "address": cluster.address})
        killer.join()
    finally:
        left.append(None)
        cluster.shutdown()
    assert len(digest(tmp_path / "inline")) == 10 and len(left) < 5, "amid the stage"
    assert digest(tmp_path / "ray") == digest(tmp_path / "inline")


@pytest.fixture
def one_thread():
    """So that two workers find place where there are two processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_cluster_of_our_own_is_heard_on_loopback_alone_and_a_worker_that_dies_is_started_again(one_thread, tmp_path, monkeypatch):
    with Executor(partial(Parity, tmp_path), config=ExecutorConfig(kind="ray", workers=1, retries=1)) as executor:
        (_, before), (number, after) = executor.map([6, 8])
        assert number == 8 and (tmp_path / "killed").exists() and len({os.getpid(), before, after}) == 3
        ours = psutil.Process().children(recursive=True)
        ports = [c.laddr.ip for process in ours for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert ports and set(ports) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        with pytest.raises(FileNotFoundError, match="^seven is odd: give an even number$"):
            list(executor.map([7]))
        monkeypatch.chdir(tmp_path)
        work_apart(tmp_path)


def work_apart(folder: Path) -> None:
    """With a store, a worker of the cluster that is there sees what it is sent alone, and its work comes back."""
    (folder / "a").write_text("here")
    (folder / "b").write_text("not asked for")
    about = {"kind": "ray", "workers": 1, "store": f"file://{folder}/store"}
    with (
        WorkCache("peek") as work,
        Executor(partial(Peek, work, "/"), lambda name: [Path(name)], config=ExecutorConfig(**about)) as executor,
    ):
        (text, seen, _, where), made = executor.map(["a", "three="])
        assert (text, seen) == ("here", ["a"]) and where != str(folder) and where.endswith(str(folder))
        assert made.file == work.folder / "three=" and made.file.read_bytes() == b"made"
    assert not Path(where).exists()


def test_where_no_cluster_answers_a_sentence_says_so(tmp_path):
    with pytest.raises(
        ValueError, match="executor.address is '127.0.0.1:1', where no Ray cluster answers .*: start one by `ray start --head`"
    ):
        Executor(partial(Parity, tmp_path), config=ExecutorConfig(kind="ray", address="127.0.0.1:1"))


def test_machines_without_the_projects_folder_are_brought_its_packages_and_nothing_else():
    brought = _code()["runtime_env"]["py_modules"]
    assert {Path(folder).name for folder in brought} >= {"stages", "sur_adapter"} and {Path(folder).parent for folder in brought} == {ROOT}
