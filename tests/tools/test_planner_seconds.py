"""The planner beside what was measured: seconds of this machine, and what `dvc repro` would run now."""

import json
import re

import pytest
from dvc.repo import Repo
from helpers.repository import ROOT
from ruamel.yaml import YAML

from stages.__main__ import main
from sur_adapter.config import Params
from sur_adapter.tools.planner.estimate import Plan, StageEstimate
from sur_adapter.tools.planner.planner import add_up, format_pending, format_plan, pending_stages
from sur_adapter.tools.timing import pipeline_commands, this_machine

SECONDS = {"crawl@a": 10.0, "train": 100.0, "generate@x": 20.0, "generate@y": 5.0, "score": 7.0}
PLAN = Plan([StageEstimate("crawl", 5), StageEstimate("score", 5), StageEstimate("train", 5), StageEstimate("sweep", 5)])


def test_a_stage_of_the_plan_has_the_seconds_of_all_its_parts_or_none():
    names = [*SECONDS, "sweep", "caption@a", "caption@b"]
    stages = ["crawl", "caption", "score", "train", "generate", "sweep", "unknown"]
    assert add_up(stages, SECONDS | {"caption@a": 1.0}, names) == {"crawl": 10, "score": 7, "train": 100, "generate": 25}


def test_the_table_has_measured_seconds_where_there_are_any():
    lines = [re.split("  +", line) for line in format_plan(PLAN, {"crawl": 10.0, "train": 1234.5}).split("\n\n")[0].splitlines()]
    assert [line[-1] for line in lines] == ["measured seconds", "10.0", "-", "1,234.5", "-", "1,244.5"]
    assert "measured" not in format_plan(PLAN).split("\n\n")[0]


def test_what_repro_would_take_is_the_sum_of_its_stages():
    assert format_pending(["train", "generate@x"], SECONDS) == "`dvc repro` would run 2 stages (train, generate@x): about 2.0 minutes here"
    assert format_pending(["train", "sweep"], SECONDS).endswith("about 1.7 minutes here, without sweep: not measured")
    assert format_pending(["sweep"], SECONDS) == "`dvc repro` would run 1 stage (sweep): not measured here"
    assert format_pending([], SECONDS) == "`dvc repro` would run no stage: all outs are up to date"


def test_stages_after_a_changed_one_are_pending_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    assert pending_stages() is None, "this is no project of DVC"
    (tmp_path / "a").write_text("a")
    commands = {"other": ("cp .dvc/config d", "params.yaml", "d"), "first": ("cp a b", "a", "b"), "second@x": ("cp b c", "b", "c")}
    stages = {name.partition("@")[0]: {"cmd": cmd, "deps": [dep], "outs": [out]} for name, (cmd, dep, out) in commands.items()}
    stages["second"] = {"foreach": {"x": {}}, "do": stages["second"]}
    (tmp_path / "params.yaml").write_text("{}")
    YAML().dump({"stages": stages}, tmp_path / "dvc.yaml")
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        repo.reproduce()
    (tmp_path / "a").write_text("changed")
    assert pending_stages() == ["first", "second@x"]
    assert (tmp_path / "c").read_text() == "a", "nothing was run"


def test_the_command_prints_what_was_measured_on_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SUR_PARAMS", str(ROOT / "params.yaml"))
    monkeypatch.setattr("sur_adapter.tools.planner.planner.pending_stages", lambda: ["train"])
    machine = {"cpu_seconds": 1.0, "peak_memory_mb": 1, "finished": "2026-01-01T00:00:00+00:00", "machine": this_machine()}
    entries = {name: {"seconds": 10.0} | machine for name in pipeline_commands(Params.read())}
    file = tmp_path / "timing.json"
    file.write_text(json.dumps(entries))
    main(["plan", "--timing", str(file)])
    text = capsys.readouterr().out
    arms = sum(name.startswith("generate@") for name in entries)
    assert re.search(r"^crawl .* 10\.0$", text, re.M) and re.search(rf"^generate .* {10 * arms}\.0$", text, re.M)
    assert text.rstrip().endswith("`dvc repro` would run 1 stage (train): about 10 s here")


@pytest.mark.parametrize("text", ["[]", "{"])
def test_a_corrupt_file_of_measurements_is_named(tmp_path, monkeypatch, text):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SUR_PARAMS", str(ROOT / "params.yaml"))
    (tmp_path / "timing.json").write_text(text)
    with pytest.raises(ValueError, match="timing.json is not a file of measurements"):
        main(["plan", "--timing", str(tmp_path / "timing.json")])
