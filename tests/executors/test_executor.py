"""Whichever executor works on the shards, the outs are the same bytes, and what goes wrong is one sentence."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from helpers import tiny_models as tiny
from helpers.executor_workers import Parity
from helpers.repository import ROOT
from helpers.small_models import SOURCES, digest
from helpers.stages import caption

import stages.crawl
import stages.generate
from stages.crawl import crawl
from stages.generate import generate
from stages.score import score
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.executors.base import ExecutorConfig, ShardResult
from sur_adapter.executors.executor import Executor
from sur_adapter.features.extractors import llm, vae
from sur_adapter.io import schema as records
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.shards import read_table

pytestmark = pytest.mark.usefixtures("own_work")
ONE, TWO = ({"kind": "processes", "workers": count} for count in (1, 2))
PROMPTS = ROOT / "prompts/miniature"


def test_answers_come_in_the_order_of_the_tasks_from_other_processes_that_are_gone_afterwards(tmp_path):
    with Executor(partial(Parity, tmp_path), config=ExecutorConfig(**TWO)) as executor:
        answers = list(executor.map([0, 1, 2, 3, 4, 6]))
    assert [number for number, _ in answers] == [0, 1, 2, 3, 4, 6]
    pids = {pid for _, pid in answers}
    assert os.getpid() not in pids and 1 <= len(pids) <= 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_work_of_a_process_that_was_killed_is_given_to_another_and_no_more_often_than_allowed(tmp_path):
    with Executor(partial(Parity, tmp_path), config=ExecutorConfig(kind="processes", workers=1, retries=1)) as executor:
        assert [number for number, _ in executor.map([8, 9])] == [8, 9]
    (tmp_path / "killed").unlink()
    with (
        Executor(partial(Parity, tmp_path), config=ExecutorConfig(kind="processes", workers=1, retries=0)) as executor,
        pytest.raises(ValueError, match=r"were killed 1 times, for lack of memory, perhaps: set fewer executor.workers"),
    ):
        list(executor.map([8, 9]))


def test_a_worker_reckons_with_as_many_threads_as_the_stage_would(tmp_path):
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    torch.set_num_threads(other)
    try:
        with Executor(partial(Parity, tmp_path), config=ExecutorConfig(kind="processes", workers=1)) as executor:
            assert list(executor.map([5, 5])) == [(5, other)] * 2
    finally:
        torch.set_num_threads(before)


def test_a_crawl_is_the_same_bytes_whoever_looks_at_the_pictures(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(stages.crawl, "AT_ONCE", 40)
    crawl(tmp_path / "miniature", sources=SOURCES, executor=TWO)
    assert digest(tmp_path / "miniature") == digest(raw / "miniature")


def test_captions_and_scores_are_the_same_bytes_in_one_process_and_in_two(shards, models, tmp_path):
    rules = {"model": str(models / "blip"), "top_p": 0.9, "batch": 3}
    for name, executor in (("inline", None), ("processes", TWO)):
        caption(shards / "s", tmp_path / name / "captions" / "s", caption=rules, executor=executor)
        score(
            shards,
            tmp_path / name / "captions",
            tmp_path / name / "phash",
            scores={"phash": {}},
            sources={"s": {}},
            executor=executor and ONE,
        )
    assert digest(tmp_path / "processes") == digest(tmp_path / "inline")
    assert set(digest(tmp_path / "inline")) == {"phash/s.parquet"} | {f"captions/s/captions-00000{k}.parquet" for k in range(10)}


def test_what_a_worker_refuses_is_refused_by_the_stage_in_the_same_words(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"^seven is odd: give an even number$"),
        Executor(partial(Parity, tmp_path), config=ExecutorConfig(**TWO)) as executor,
    ):
        list(executor.map([6, 7]))


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"kind": "procesess"}, r"executor.kind is 'procesess' \(did you mean 'processes'\?\)"),
        ({"kind": "processes", "workers": 0}, "executor.workers is 0: give a whole number of at least 1, or auto"),
        ({"kind": "processes", "gpus": 1.5}, "executor.gpus is 1.5: give the GPUs of a worker"),
        ({"kind": "processes", "gpus": 99}, "executor.gpus is 99, and . GPUs are here: set it to 0"),
        ({"kind": "processes", "retries": -1}, "executor.retries is -1: give a whole number"),
    ],
)
def test_an_engine_that_cannot_be_is_refused_in_a_sentence(tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said):
        Executor(partial(Parity, tmp_path), config=ExecutorConfig(**wrong))


def test_what_lies_on_a_disk_of_another_machine_alone_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sur_adapter.executors.base.PATIENCE", 0.1)
    (tmp_path / "a").write_bytes(b"1")
    made = ShardResult.of(tmp_path / "a", 1)
    made.check()
    (tmp_path / "a").write_bytes(b"2")
    with pytest.raises(ValueError, match="is not here as a worker wrote it: put the project, and SUR_WORK, on a disk"):
        made.check()


def test_no_stage_tracks_the_engine():
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        tracked = {key for stage in repo.index.stages for dep in stage.params for key in dep.params}
    assert "caption" in tracked and not any(key.split(".")[0] == "executor" for key in tracked)


def test_who_works_here_waits_for_no_other_engine():
    code = """
import sys
from sur_adapter.executors.executor import Engine
print(list(Engine(lambda: abs).map([-1])), {'fsspec', 'ray', 'torch'} & set(sys.modules))"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[1] set()"


def test_lanes_of_the_cache_are_the_same_bytes_in_the_stages_process_and_in_one_that_sees_nothing_of_its_disk(home, apart, monkeypatch):
    monkeypatch.setattr(records, "SHARD", 5)
    models = tiny.models(Path("models"))
    rows = read_table(tiny.home(home, models, 16) / "pairs.parquet")
    album = ImageIndex(Path("raw"), set(rows["id"]))
    for name, executor in (("inline", None), ("processes", apart)):
        llm.write(rows, {}, Path(name, "llm"), models, executor, layers="all", tokens=40)
        vae.write(rows, album, Path(name, "vae"), models, executor, batch=2)
    assert digest(Path("processes")) == digest(Path("inline")) and len(digest(Path("inline"))) == 2 * 4


def test_pictures_of_an_arm_are_the_same_bytes_in_the_stages_process_and_in_one_apart_and_no_batch_is_drawn_twice(home, apart, monkeypatch):
    options = {"per_category": 1, "seeds": 2, "steps": 2, "guidance": 3.0, "batch": 2}
    given = {"models": tiny.models(Path("models")), "generate": options}
    SURAdapter(AdapterConfig(32, depth=1, heads=2)).save_pretrained(adapter := Path("models/adapter"))
    generate(PROMPTS, Path("processes/adapter"), adapter, executor=apart, **given)
    paint, drawn = stages.generate.paint, []
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stages.generate, "paint", lambda *a, **k: drawn.append(1) or (paint(*a, **k) if len(drawn) < 3 else stopped()))
        generate(PROMPTS, Path("inline/adapter"), adapter, **given)
    monkeypatch.setattr(stages.generate, "paint", lambda *a, **k: drawn.append(1) or paint(*a, **k))
    generate(PROMPTS, Path("inline/adapter"), adapter, **given)
    assert len(drawn) == 3 + 1, "three batches; the third was interrupted"
    assert digest(Path("processes")) == digest(Path("inline")) and len(digest(Path("inline"))) == 2


def stopped():
    raise KeyboardInterrupt


def test_a_stage_that_is_killed_takes_its_workers_with_it(tmp_path):
    code = """
import time
from functools import partial
from pathlib import Path
from helpers.executor_workers import Parity
from sur_adapter.executors.executor import Engine
with Engine(partial(Parity, Path(".")), kind="processes", workers=1) as executor:
    print(next(executor.map([1]))[1], flush=True)
    time.sleep(600)"""
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as stage:
        worker = psutil.Process(int(stage.stdout.readline()))
        assert worker.is_running() and worker.pid != stage.pid
        stage.kill()
    gone, alive = psutil.wait_procs([worker], timeout=20)
    assert not alive
