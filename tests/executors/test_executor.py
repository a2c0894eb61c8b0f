"""All executors write the same bytes, and every error is one sentence."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from helpers import tiny_models as tiny
from helpers.executor_workers import Parity, ProgressBar
from helpers.repository import ROOT
from helpers.small_models import SOURCES, digest
from helpers.stages import caption, crawl, generate, score

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.config import from_dict
from sur_adapter.data.crawl import shard_writer
from sur_adapter.executors.base import ExecutorConfig, LazyWorker, ShardResult, num_torch_threads, resolve_num_workers
from sur_adapter.executors.executor import Executor
from sur_adapter.generation import writer
from sur_adapter.io import schema as records
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.shards import read_table
from sur_adapter.io.work_cache import discard_work

pytestmark = pytest.mark.usefixtures("own_work")
ONE, TWO = ({"kind": "processes", "workers": count} for count in (1, 2))
PROMPTS = ROOT / "prompts/plain"  # three categories


def test_results_come_in_task_order_from_worker_processes_that_end_with_the_executor(tmp_path):
    with Executor(partial(Parity, tmp_path), config=ExecutorConfig(**TWO)) as executor:
        results = list(executor.map([0, 1, 2, 3, 4, 6]))
    assert [number for number, _ in results] == [0, 1, 2, 3, 4, 6]
    pids = {pid for _, pid in results}
    assert os.getpid() not in pids and 1 <= len(pids) <= 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_task_of_a_killed_process_is_retried_up_to_the_limit(tmp_path):
    with Executor(partial(Parity, tmp_path), config=ExecutorConfig(kind="processes", workers=1, retries=1)) as executor:
        assert [number for number, _ in executor.map([8, 9])] == [8, 9]
    (tmp_path / "killed").unlink()
    with (
        Executor(partial(Parity, tmp_path), config=ExecutorConfig(kind="processes", workers=1, retries=0)) as executor,
        pytest.raises(ValueError, match=r"were killed 1 times, perhaps for lack of memory: set fewer executor.workers"),
    ):
        list(executor.map([8, 9]))


@pytest.mark.parametrize("kind", ["inline", "processes"])
def test_a_worker_uses_the_threads_of_the_settings_and_leaves_those_of_the_stage(tmp_path, kind):
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    with Executor(partial(Parity, tmp_path), config=ExecutorConfig(kind=kind, workers=1, threads=other)) as executor:
        assert list(executor.map([5, 5])) == [(5, other)] * 2
    assert torch.get_num_threads() == before


def test_with_one_thread_each_there_are_as_many_workers_as_cores():
    assert resolve_num_workers(ExecutorConfig(threads=1), num_torch_threads(ExecutorConfig(threads=1)), 6, 0) == 6


def test_workers_that_have_finished_leave_nothing_behind(tmp_path):
    """A worker that shows a bar holds a semaphore of tqdm, of which multiprocessing warns if the worker is killed."""
    code = """
from helpers.executor_workers import ProgressBar
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.executors.executor import Executor
if __name__ == "__main__":
    with Executor(ProgressBar, config=ExecutorConfig(kind="processes", workers=2, threads=1)) as executor:
        print(len(list(executor.map([1, 2, 3]))))
"""
    (tmp_path / "stage.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, tmp_path / "stage.py"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "3\n" and "leaked" not in done.stderr


def test_a_worker_that_computes_keeps_freed_memory(monkeypatch):
    calls = []
    monkeypatch.setattr("sur_adapter.models.torch_utils.keep_freed_memory", lambda: calls.append("kept"))
    monkeypatch.setattr(os, "environ", dict(os.environ))  # a worker sets variables of its own process
    before = torch.get_num_threads()
    try:
        worker = LazyWorker(lambda: lambda: lambda task: task, before)
        assert [worker(1), worker(2)] == [1, 2] and calls == ["kept"]
    finally:
        torch.set_num_threads(before)


def test_no_thread_is_refused():
    with pytest.raises(ValueError, match="threads is 0: give a whole number of at least 1, or null"):
        ExecutorConfig(threads=0)


def test_a_worker_uses_as_many_threads_as_the_stage(tmp_path):
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    torch.set_num_threads(other)
    try:
        with Executor(partial(Parity, tmp_path), config=ExecutorConfig(kind="processes", workers=1)) as executor:
            assert list(executor.map([5, 5])) == [(5, other)] * 2
    finally:
        torch.set_num_threads(before)


def test_progress_bars_are_hidden_in_worker_processes_only():
    here, env = ProgressBar()(0), os.environ.get("TQDM_DISABLE")
    with Executor(ProgressBar, config=ExecutorConfig(**ONE)) as executor:
        assert list(executor.map([0])) == [(True, True)]
    assert ProgressBar()(0) == here and os.environ.get("TQDM_DISABLE") == env, "the stage's own process is not changed"


def test_a_crawl_writes_the_same_bytes_when_workers_check_the_images(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "IMAGES_PER_TASK", 40)
    crawl(tmp_path / "miniature", sources=SOURCES, executor=TWO)
    assert digest(tmp_path / "miniature") == digest(raw / "miniature")


def test_captions_and_scores_are_the_same_bytes_in_one_process_and_in_two(shards, models, tmp_path):
    rules = {"model": str(models / "blip"), "top_p": 0.9, "batch_size": 3}
    for name, executor in (("inline", None), ("processes", TWO)):
        caption(shards / "s", tmp_path / name / "captions" / "s", caption=rules, executor=executor)
        discard_work("score")
        score(
            shards,
            tmp_path / name / "captions",
            tmp_path / name / "scores",
            scores={"phash": {}, "keywords": {}},
            sources={"s": {}},
            executor=executor and ONE,
        )
    assert digest(tmp_path / "processes") == digest(tmp_path / "inline")
    assert set(digest(tmp_path / "inline")) == {f"captions/s/captions-00000{k}.parquet" for k in range(10)} | {
        "scores/keywords/s.parquet",
        "scores/phash/s.parquet",
    }


def test_an_exception_of_a_worker_is_raised_in_the_stage_with_its_message(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"^seven is odd: give an even number$"),
        Executor(partial(Parity, tmp_path), config=ExecutorConfig(**TWO)) as executor,
    ):
        list(executor.map([6, 7]))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"kind": "procesess"}, r"executor.kind is 'procesess' \(did you mean 'processes'\?\)"),
        ({"kind": "processes", "workers": "many"}, "executor.workers is 'many'.*: give a whole number or auto"),
        ({"kind": "processes", "workers": 0}, "executor.workers is 0: give a whole number of at least 1, or auto"),
        ({"kind": "processes", "gpus": 1.5}, "executor.gpus is 1.5: give the GPUs of a worker"),
        ({"kind": "processes", "gpus": 99}, "executor.gpus is 99, but . GPUs are available: set it to 0"),
        ({"kind": "processes", "retries": -1}, "executor.retries is -1: give a whole number"),
    ],
)
def test_an_invalid_executor_config_is_reported_in_one_sentence(tmp_path, config, message):
    with pytest.raises(ValueError, match=f"^params.yaml: {message}"):
        Executor(partial(Parity, tmp_path), config=from_dict(ExecutorConfig, config, "executor"))


def test_a_result_that_is_only_on_another_machines_disk_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("sur_adapter.executors.base.FILE_TIMEOUT", 0.1)
    (tmp_path / "a").write_bytes(b"1")
    result = ShardResult.of(tmp_path / "a", 1)
    result.check()
    (tmp_path / "a").write_bytes(b"2")
    with pytest.raises(ValueError, match="is missing or differs from what a worker wrote: put the project and SUR_WORK on a disk"):
        result.check()


def test_no_stage_tracks_the_section_executor():
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        tracked = {key for stage in repo.index.stages for dep in stage.params for key in dep.params}
    assert "caption" in tracked and not any(key.split(".")[0] == "executor" for key in tracked)


def test_the_inline_executor_imports_no_other_executor():
    code = """
import sys
from sur_adapter.executors.executor import Executor
print(list(Executor(lambda: abs).map([-1])), {'fsspec', 'ray', 'torch'} & set(sys.modules))"""
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[1] set()"


def test_features_are_the_same_bytes_inline_and_in_a_process_without_the_shared_disk(home, no_shared_fs, monkeypatch):
    monkeypatch.setattr(records, "ROWS_PER_SHARD", 5)
    models = tiny.models(Path("models"))
    rows = read_table(tiny.home(home, models, 16) / "pairs.parquet")
    index = ImageIndex(Path("raw"), set(rows["id"]))
    for name, executor in (("inline", None), ("processes", no_shared_fs)):
        tiny.extract("llm", rows, Path(name, "llm"), models, executor=executor, layers="all", max_tokens_per_batch=40)
        tiny.extract("vae", rows, Path(name, "vae"), models, index, executor=executor, batch_size=2)
    assert digest(Path("processes")) == digest(Path("inline")) and len(digest(Path("inline"))) == 2 * 4


def test_images_are_the_same_bytes_inline_and_without_the_shared_disk_and_a_killed_run_repeats_no_batch(home, no_shared_fs, monkeypatch):
    options = {"per_category": 1, "seeds": 2, "num_inference_steps": 2, "guidance_scale": 3.0, "batch_size": 2}
    sections = {"models": tiny.models(Path("models")), "generate": options}
    SURAdapter(AdapterConfig(32, depth=1, heads=2)).save_pretrained(adapter := Path("models/adapter"))
    arms = ("adapter", "complex_adapter")
    generate(PROMPTS, Path("processes"), *arms, adapter=adapter, executor=no_shared_fs, **sections)
    own, batches = writer.generate_batch, []
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(writer, "generate_batch", lambda *a: batches.append(1) or (own(*a) if len(batches) < 5 else interrupt()))
        generate(PROMPTS, Path("inline"), *arms, adapter=adapter, **sections)
    monkeypatch.setattr(writer, "generate_batch", lambda *a: batches.append(1) or own(*a))
    generate(PROMPTS, Path("inline"), *arms, adapter=adapter, **sections)
    assert len(batches) == 6 + 1, "three batches of each arm; the second one of the second arm was interrupted"
    assert digest(Path("processes")) == digest(Path("inline")) and len(digest(Path("inline"))) == 2 * 2


def interrupt():
    raise KeyboardInterrupt


def test_workers_end_when_the_stage_is_killed(tmp_path):
    code = """
import time
from functools import partial
from pathlib import Path
from helpers.executor_workers import Parity, ProgressBar
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.executors.executor import Executor
with Executor(partial(Parity, Path(".")), config=ExecutorConfig(kind="processes", workers=1)) as executor:
    print(next(executor.map([1]))[1], flush=True)
    time.sleep(600)"""
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as stage:
        worker = psutil.Process(int(stage.stdout.readline()))
        assert worker.is_running() and worker.pid != stage.pid
        stage.kill()
    gone, alive = psutil.wait_procs([worker], timeout=20)
    assert not alive
