"""A sealed list of prompts is drawn by all arms, judged, and each opening is logged."""

import json
import shutil
import subprocess
from argparse import Namespace
from hashlib import sha256
from pathlib import Path

import pytest
from helpers.finished_run import PROMPTS, FinishedRun
from helpers.repository import ROOT
from helpers.training_setup import adapter
from ruamel.yaml import YAML

from sur_adapter.config import Params
from sur_adapter.tools import judge_sealed

SHOWN = PROMPTS[:2] + PROMPTS[8:10]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with params, models, an adapter, a sealed list and the images that the stage generate writes."""
    monkeypatch.chdir(tmp_path)
    for name in ("models", "miniature", "stages", "sur_adapter"):
        (tmp_path / name).symlink_to(ROOT / name)
    finished = FinishedRun(tmp_path / "finished", SHOWN)
    (tmp_path / "sealed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SHOWN))
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["evaluate"] |= {"clip": None, "bootstrap_resamples": 200}
    YAML(typ="safe").dump(values, Path("params.yaml"))
    adapter().save_pretrained(finished.adapter)
    return tmp_path


@pytest.fixture
def drawn(folder, monkeypatch) -> list[list[str]]:
    """Copies finished images in place of generating them. Returns the words of the calls."""
    calls = []

    def generate(words: list[str], env: dict, **_) -> subprocess.CompletedProcess:
        if words[0] == "git":
            return subprocess.CompletedProcess(words, 0, "abc\n" if "rev-parse" in words else " M params.yaml\n")
        arms = words[words.index("--arms") + 1 : words.index("--prompts")]
        out = Path(words[words.index("--out") + 1])
        per_category = YAML(typ="safe").load(Path(env["SUR_PARAMS"]))["generate"]["per_category"]
        calls.append([*arms, "--adapter" in words, per_category])
        for arm in arms:
            shutil.copytree(folder / "finished/images" / arm, out / arm)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(judge_sealed.subprocess, "run", lambda words, env=None, **more: generate(words, env, **more))
    return calls


def open_list(folder: Path) -> None:
    args = Namespace(file=folder / "sealed.jsonl", adapter=folder / "finished/adapter", log=folder / "reports/sealed.json")
    judge_sealed.run(args, Params.read())


def test_all_arms_draw_all_prompts_and_the_opening_is_logged(folder, drawn, capsys, own_work):
    open_list(folder)
    assert drawn == [["baseline", "complex", "expansion", "rewrite", False, 4], ["adapter", "complex_adapter", True, 4]]
    log = (folder / "reports/sealed.json").read_text()
    (opening,) = json.loads(log)
    assert opening["sha256"] == sha256((folder / "sealed.jsonl").read_bytes()).hexdigest()
    assert opening["prompts"] == 4 and opening["commit"] == "abc+" and opening["date"][:2] == "20" and len(opening["adapter"]) == 16
    assert opening["accuracy"]["complex"]["value"] == 1.0 and opening["accuracy"]["adapter"]["value"] == 1.0
    assert {"value", "low", "high"} <= opening["difference"].keys() and log.count("\n") == 3
    assert not any(row["prompt"] in log for row in SHOWN), "the log does not show the prompts"
    printed = capsys.readouterr().out
    assert "opening 1, SHA-256" in printed and "4 prompts" in printed and "complex_adapter" in printed


def test_a_second_opening_of_the_same_list_is_named(folder, drawn, capsys, own_work):
    open_list(folder)
    assert "no longer sealed" not in capsys.readouterr().out
    open_list(folder)
    assert "this list was opened before, on 20" in capsys.readouterr().out
    assert len(json.loads((folder / "reports/sealed.json").read_text())) == 2


def test_an_opening_that_fails_is_logged_without_figures(folder, drawn, monkeypatch, own_work):
    failed = subprocess.CompletedProcess([], 1, "")
    monkeypatch.setattr(judge_sealed.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ValueError, match="the images of baseline, complex, expansion, rewrite could not be generated"):
        open_list(folder)
    (opening,) = json.loads((folder / "reports/sealed.json").read_text())
    assert "accuracy" not in opening and opening["commit"] is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"sha256": "a"}]'])
def test_a_damaged_log_is_refused_and_kept(folder, content):
    (folder / "reports").mkdir()
    (folder / "reports/sealed.json").write_text(content)
    with pytest.raises(ValueError, match="sealed.json is no list of openings with sha256 and date: restore it from git"):
        open_list(folder)
    assert (folder / "reports/sealed.json").read_text() == content


def test_without_a_judge_or_an_adapter_nothing_is_opened(folder):
    shutil.rmtree(folder / "finished/adapter")
    with pytest.raises(FileNotFoundError, match="adapter is missing: train an adapter first"):
        open_list(folder)
    values = YAML(typ="safe").load(folder / "params.yaml")
    values["evaluate"]["judge"] = None
    YAML(typ="safe").dump(values, folder / "params.yaml")
    with pytest.raises(ValueError, match="evaluate.judge is null, and sealed prompts need a judge"):
        open_list(folder)
    assert not (folder / "reports/sealed.json").exists()
