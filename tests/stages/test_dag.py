"""The whole DAG, run by `dvc repro` with small params in a separate repository."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.repository import copy, ran, run
from ruamel.yaml import YAML

from sur_adapter.generation.arms import ARMS
from sur_adapter.io.schema import image_ids
from sur_adapter.io.shards import read_table
from sur_adapter.io.work_cache import discard_work

SMALL = {
    "sources": {"miniature": {"count": 260}},
    "sentences": {"sources": {"miniature": {"count": 200}}},
    "cache": {"queries": {"count": 200}},
    "loss": {"sentences": 16},
    "train": {"steps": 30, "batch_size": 16},
    "generate": {"per_category": 2, "seeds": 2, "num_inference_steps": 4},
    "sweep": {"strengths": [0, 0.5, 1], "per_category": 2},
    "evaluate": {"bootstrap_resamples": 200},
    "executor": {"kind": "inline"},  # so little work is not worth processes of its own
}


DOWNSTREAM_OF_LOSS = {"train", "generate@with_adapter", "sweep", "evaluate"}


def without_empty(tree: dict) -> dict:
    """Leaves out tables without a figure, as DVC does when it shows metrics: a gap that is not there has none."""
    pairs = ((key, without_empty(value) if isinstance(value, dict) else value) for key, value in tree.items())
    return {key: value for key, value in pairs if value != {}}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the project with small params, run once."""
    folder = copy(tmp_path_factory.mktemp("home"), "miniature", SMALL)
    return folder, run(folder, "dvc", "repro")


def test_one_command_runs_every_stage_and_writes_metrics_and_report(home):
    folder, output = home
    stages = run(folder, "dvc", "stage", "list", "--name-only").split()
    assert ran(output) == set(stages)
    metrics = json.loads((folder / "reports/metrics.json").read_text())
    assert set(ARMS) == set(metrics["semantic"]["overall"])
    assert metrics["strength"].keys() == {"0", "0.5", "1"} and set(metrics["semantic"]["on_complex"]) > {"value", "low", "high"}
    assert (folder / "reports/index.html").stat().st_size > 10_000


def test_a_second_run_has_nothing_to_do(home):
    assert ran(run(home[0], "dvc", "repro")) == set()


@pytest.mark.parametrize(
    "name", ["__pycache__/x.cpython-311.pyc", ".pytest_cache/v", "x.egg-info/PKG-INFO", ".x.py.swp", "x.py~", ".idea/x.iml"]
)
def test_files_that_programs_leave_beside_the_sources_change_no_dependency(home, name):
    folder, _ = home
    deps = {dep for stage in YAML(typ="safe").load(folder / "dvc.lock")["stages"].values() for dep in (d["path"] for d in stage["deps"])}
    folders = [folder / dep for dep in deps if (folder / dep).is_dir() and not dep.startswith(("data", "models", "reports", "prompts"))]
    extra_files = [directory / name for directory in folders]
    assert len(extra_files) >= 4
    for file in extra_files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    assert ran(run(folder, "dvc", "repro")) == set()
    for file in extra_files:
        file.unlink()


def test_bytecode_of_imported_modules_changes_no_dependency(home):
    folder, _ = home
    names = [f.relative_to(folder) for package in ("sur_adapter", "stages", "miniature") for f in (folder / package).rglob("*.py")]
    modules = [".".join(f.with_suffix("").parts).removesuffix(".__init__") for f in names if f.stem != "__main__"]
    run(folder, sys.executable, "-c", f"import importlib\nfor name in {modules!r}: importlib.import_module(name)")
    written = [f for f in folder.rglob("__pycache__/*.pyc") if ".dvc" not in f.parts]
    assert len(written) >= len(modules) / 2  # otherwise this test could not fail
    assert "up to date" in run(folder, "dvc", "status", "dvc.yaml")  # miniature/dvc.yaml has outs that nobody pulls
    assert ran(run(folder, "dvc", "repro")) == set()


def test_the_funnel_adds_up_kept_and_dropped_rows(home):
    folder, _ = home
    funnel = json.loads((folder / "reports/funnel.json").read_text())
    captions = read_table(folder / "data/captions/miniature")
    images = image_ids(captions.id).nunique()
    assert len(captions) == 3 * images and len(read_table(folder / "data/raw/miniature")) == 260 > images
    rows = len(captions) + 260 - images  # an image without a caption is a row, too
    assert funnel["in"] == funnel["kept"] + sum(funnel["dropped"].values()) == rows


def test_every_kept_sentence_is_answered_or_dropped_with_a_reason(home):
    folder, _ = home
    counts, answers = (
        json.loads((folder / "reports/sentences.json").read_text()),
        read_table(folder / "data/features/sentences/answers.parquet"),
    )
    assert counts["in"] == counts["kept"] + sum(counts["dropped"].values()) == 200
    assert (
        len(answers) == counts["kept"]
        and answers.reason.isna().sum() > 100
        and "reports/sentences.json" in (folder / "dvc.lock").read_text()
    )


def test_an_experiment_on_a_loss_runs_only_train_the_stages_with_the_adapter_and_evaluate(home):
    folder, _ = home
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "ran")
    before = json.loads((folder / "models/adapter/config.json").read_text())
    assert ran(run(folder, "dvc", "exp", "run", "-S", "loss.w_llm=0.5")) == DOWNSTREAM_OF_LOSS
    after = json.loads((folder / "models/adapter/config.json").read_text())
    assert before["about"]["loss"]["w_llm"] != after["about"]["loss"]["w_llm"] == 0.5


def test_queued_experiments_do_not_change_the_workspace_and_dvc_shows_params_and_metrics_of_each(home):
    folder, _ = home
    before = run(folder, "git", "status", "--short"), (folder / "reports/metrics.json").read_bytes()
    run(folder, "dvc", "exp", "run", "--queue", "-S", "loss.w_llm=0.5,0.7")  # the first equals the workspace, so nothing runs
    assert ran(run(folder, "dvc", "exp", "run", "--run-all")) == DOWNSTREAM_OF_LOSS
    _, base = json.loads(run(folder, "dvc", "exp", "show", "--json"))
    queued = [e["revs"][0]["data"] for e in base["experiments"] if e["executor"]]
    figures = {e["params"]["params.yaml"]["data"]["loss"]["w_llm"]: e["metrics"]["reports/metrics.json"]["data"] for e in queued}
    assert figures.keys() == {0.5, 0.7} and figures[0.5] == without_empty(json.loads(before[1])) != figures[0.7]
    assert (run(folder, "git", "status", "--short"), (folder / "reports/metrics.json").read_bytes()) == before


def test_dvc_shows_the_metrics_and_every_plot(home):
    folder, _ = home
    shown = json.loads(run(folder, "dvc", "metrics", "show", "--json"))[""]["data"]["reports/metrics.json"]["data"]
    assert shown == without_empty(json.loads((folder / "reports/metrics.json").read_text()))
    run(folder, "dvc", "plots", "show")
    page, plots = (folder / "dvc_plots/index.html").read_text(), json.loads(run(folder, "dvc", "plots", "show", "--json"))
    assert "errors" not in plots and set(plots["data"]) == {"funnel", "accuracy", "clip score", "strength", "training loss"}
    steps = pd.read_csv(folder / "reports/funnel.csv").step.tolist()  # which filters drop an image depends on the few that are drawn
    assert {"in", "clip_complex", "kept"} <= set(steps) and all(word in page for word in (*steps, "validation_loss", "baseline"))
    assert "dvc_plots" not in run(folder, "git", "status")


def test_the_outs_are_the_same_bytes_on_another_run(home):
    """All stages run again in one process, which saves fifteen starts of Python and its libraries."""
    folder, _ = home
    run(folder, "git", "checkout", "-q", ".")
    stages = YAML(typ="safe").load(folder / "dvc.lock")["stages"].values()
    commands = [shlex.split(stage["cmd"])[3:] for stage in stages]  # without `python -m stages`
    outs = {folder / out["path"] for stage in stages for out in stage["outs"]}
    for out in outs:
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    discard_work("score")
    run(folder, sys.executable, "-c", f"from stages.__main__ import main\nfor command in {in_order(commands)!r}: main(command)")
    assert len(outs) > 15 and all(out.exists() for out in outs)
    assert "up to date" in run(folder, "dvc", "status", "dvc.yaml")


def in_order(commands: list[list[str]]) -> list[list[str]]:
    """Sorts the commands of all stages so that each comes after those whose outs it reads; dvc.lock has them by name."""
    order = ["crawl", "caption", "score", "filter", "sentences", "cache", "train", "generate", "sweep", "evaluate"]
    return sorted(commands, key=lambda command: order.index(command[0]))
