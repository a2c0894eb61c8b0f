"""Stages measure themselves: names as DVC has them, what is measured, and a file that survives errors and stages that end together."""

import json
import logging
import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from dvc.repo import Repo
from helpers.repository import ROOT
from ruamel.yaml import YAML

from stages.__main__ import main
from sur_adapter.config import Params
from sur_adapter.io.shards import write_table
from sur_adapter.tools.timing import announce, measured, measured_here, pipeline_commands, read_timings, record, table, this_machine

USED = {"seconds": 30.0, "cpu_seconds": 50.0, "peak_memory_mb": 700}
ELSEWHERE = {"cpu": "Another CPU", "cores": 64, "gpu": "A GPU", "torch": None}
COMMAND = "sentences --pairs pairs.parquet --out sentences.parquet --report sentences.json"


@pytest.fixture
def project(tmp_path, monkeypatch, own_work) -> Path:
    """A project of two stages, `sentences` and one after it; the measurements of the second are of another machine."""
    rows = [{"id": "0", "simple_prompt": "a quiet little town", "dropped": None, "split": "train"}]
    write_table(tmp_path / "pairs.parquet", rows)
    (tmp_path / "own.txt").write_text("one sentence\nanother one\n")
    (tmp_path / "params.yaml").write_text("sentences: {sources: {file: {path: own.txt}}, held_out: []}\n")
    write_pipeline(tmp_path, sentences=COMMAND, sweep="sweep --out x")
    (tmp_path / "reports").mkdir()
    entry = USED | {"finished": "2026-01-01T00:00:00+00:00", "machine": ELSEWHERE}
    (tmp_path / "reports/timing.json").write_text(json.dumps({"sweep": entry}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUR_PARAMS", "params.yaml")
    return tmp_path


def write_pipeline(folder: Path, **commands: str) -> None:
    stages = {name: {"cmd": f"python -m stages {command}"} for name, command in commands.items()}
    YAML().dump({"stages": stages}, folder / "dvc.yaml")


def test_stages_have_the_names_and_commands_of_dvc(monkeypatch):
    monkeypatch.chdir(ROOT)
    with Repo(str(ROOT)) as repo:
        expected = {stage.addressing: stage.cmd.split()[3:] for stage in repo.index.stages if Path(stage.path) == ROOT / "dvc.yaml"}
    found = pipeline_commands(Params.read(ROOT / "params.yaml"))
    assert found == expected and len(found) > 15 and list(found)[-1] == "evaluate"


def test_without_a_readable_dvc_yaml_or_section_no_stage_is_known(tmp_path):
    file = tmp_path / "dvc.yaml"
    assert pipeline_commands(Params({}), file) == {}
    for text in ("", "[", "stages: {crawl: {foreach: '${sources}', do: {cmd: python -m stages crawl}}}"):
        file.write_text(text)
        assert pipeline_commands(Params({"sources": ["x"]}), file) == {}, text


def test_a_stage_says_what_it_does_and_records_what_it_took(project, capsys):
    command = [sys.executable, "-m", "stages", *COMMAND.split()]  # in its own process, whose memory and time are measured
    lines = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert lines == ["sentences: collect sentences without images for the language model"], "it has never run"
    timings = read_timings()
    assert list(timings) == ["sentences", "sweep"], "in the order of dvc.yaml, and no other entry is lost"
    entry = timings["sentences"]
    assert entry["seconds"] > 0 and entry["cpu_seconds"] > 0 and 50 < entry["peak_memory_mb"] < 5000
    assert entry["machine"]["cpu"] and entry["machine"]["cores"] >= 1 and measured_here(timings).keys() == {"sentences"}
    main(COMMAND.split())
    assert ", about " in capsys.readouterr().out


def test_the_last_stage_prints_the_table_of_all_that_dvc_yaml_has(project, capsys):
    write_pipeline(project, sweep="sweep --out x", sentences=COMMAND)
    main(COMMAND.split())
    printed = capsys.readouterr().out.split("\n", 1)[1]
    assert [line.split()[0] for line in printed.splitlines()[:4]] == ["stage", "sweep", "sentences", "total"]
    main(["timing"])
    assert capsys.readouterr().out == printed
    write_pipeline(project, sentences=COMMAND)
    main(["timing"])
    assert "sweep" not in capsys.readouterr().out, "dvc.yaml does not have it any more"


def test_only_the_first_of_several_processes_records_and_speaks(project, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    main(COMMAND.split())
    assert capsys.readouterr().out == "" and list(read_timings()) == ["sweep"]


def test_a_command_with_other_options_than_in_dvc_yaml_is_not_recorded(project, capsys):
    main([*COMMAND.split()[:-1], "elsewhere.json"])
    assert capsys.readouterr().out.startswith("sentences: collect") and list(read_timings()) == ["sweep"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_failed_or_interrupted_stage_changes_nothing(project, error):
    before = Path("reports/timing.json").read_bytes()
    with pytest.raises(error), measured(COMMAND.split(), "what it does", Params.read()):
        raise error
    assert Path("reports/timing.json").read_bytes() == before


def record_ten(number: int, file: Path) -> None:
    for k in range(10):
        record(f"cache@{number}", USED | {"seconds": float(k)}, [], file)


def test_stages_that_end_at_once_do_not_lose_an_entry(tmp_path, own_work):
    context = get_context("fork")
    processes = [context.Process(target=record_ten, args=(number, tmp_path / "reports/timing.json")) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    timings = read_timings(tmp_path / "reports/timing.json")
    assert {name: entry["seconds"] for name, entry in timings.items()} == {f"cache@{number}": 9.0 for number in range(6)}
    assert [file.name for file in (tmp_path / "reports").iterdir()] == ["timing.json"], "no lock and no part beside it"


@pytest.mark.parametrize("text", ["<<<<<<< HEAD", "[]", '{"train": 3}', '{"train": {"seconds": 3}}', "\x00"])
def test_a_corrupt_file_is_named_and_a_stage_replaces_it(project, capsys, caplog, text):
    Path("reports/timing.json").write_text(text)
    with pytest.raises(ValueError, match=r"^reports/timing.json is not a file of measurements \(.*\): remove it"):
        main(["timing"])
    with caplog.at_level(logging.WARNING):
        main(COMMAND.split())
    assert "is not a file of measurements" in caplog.text and list(read_timings()) == ["sentences"]


def test_a_file_that_cannot_be_written_does_not_fail_the_stage(project, caplog):
    Path("reports/timing.json").unlink()
    Path("reports").rmdir()
    Path("reports").write_text("a file where the folder belongs")
    record("train", USED, [])
    assert "the seconds of train are not recorded in reports/timing.json" in caplog.text


def test_what_is_measured_includes_child_processes_and_not_the_parent():
    child = "import time; block = bytearray(250_000_000); end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    code = f"""
import json, subprocess, sys
from sur_adapter.tools.timing import usage
alone = usage()
subprocess.run([sys.executable, "-c", {child!r}], check=True)
print(json.dumps([alone, usage()]))"""
    held = bytearray(500_000_000)  # of the parent, which a process that it starts inherits for a moment
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    alone, both = json.loads(done.stdout)
    assert alone["peak_memory_mb"] < 200 < both["peak_memory_mb"] < 400 < len(held) / 1e6
    assert both["cpu_seconds"] - alone["cpu_seconds"] >= 0.5 and both["seconds"] - alone["seconds"] >= 0.4


def test_the_announcement_has_the_seconds_of_the_last_run_and_names_another_machine():
    here, elsewhere = ({"train": USED | {"machine": machine}} for machine in (this_machine(), ELSEWHERE))
    assert announce("train", "train the adapter", {}) == "train: train the adapter"
    assert announce("train", "train the adapter", here) == "train: train the adapter, about 30 s"
    assert announce("train", "train the adapter", elsewhere) == "train: train the adapter, about 30 s on Another CPU, 64 cores, A GPU"
    long = {"train": here["train"] | {"seconds": 7000}}
    assert announce("train", "train", long).endswith("about 1.9 hours")


def test_the_table_has_seconds_and_shares_that_add_up():
    entry = USED | {"finished": "2026-01-01T00:00:00+00:00", "machine": ELSEWHERE}
    text = table({"crawl@a": entry, "train": entry | {"seconds": 90.0, "peak_memory_mb": 1500}})
    rows = [line.split() for line in text.splitlines()]
    assert rows[1][:5] == ["crawl@a", "30.0", "25%", "50.0", "700"] and rows[2][:3] == ["train", "90.0", "75%"]
    assert rows[3] == ["total", "120.0", "100.0", "1,500"] and text.endswith("2.0 minutes in all, measured on Another CPU, 64 cores, A GPU")
    assert "no stage of dvc.yaml was measured yet" in table({})


def test_a_stage_starts_as_fast_as_without_its_announcement(monkeypatch):
    code = "import sys, stages.__main__; print(sorted({'torch', 'pandas', 'numpy', 'filelock', 'dvc', 'psutil'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "[]"
    monkeypatch.chdir(ROOT)
    params, seconds = Params.read(ROOT / "params.yaml"), []
    for _ in range(5):
        started = time.process_time()
        pipeline_commands(params)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.1


def test_git_takes_the_measurements_and_dvc_does_not_track_them():
    ignored = subprocess.run(["git", "check-ignore", "-q", "reports/timing.json"], cwd=ROOT)
    assert ignored.returncode == 1, "1: not ignored"
    with Repo(str(ROOT)) as repo:
        paths = {Path(item.fs_path) for stage in repo.index.stages for item in (*stage.deps, *stage.outs)}
    assert not paths & {ROOT / "reports/timing.json", ROOT / "reports"}
