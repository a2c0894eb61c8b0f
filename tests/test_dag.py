"""The whole DAG as a user runs it, on shrunken params, in a repository of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
SMALL = {
    "sources": {"miniature": {"count": 260}},
    "cache": {"queries": {"count": 200}},
    "train": {"steps": 30, "batch": 16},
    "generate": {"per_category": 4, "seeds": 2, "steps": 4},
    "evaluate": {"resamples": 200},
}


def run(folder: Path, *words: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    identity = {f"GIT_{who}_{what}": "a" if what == "NAME" else "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, env=os.environ | identity | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def ran(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def merge(values: dict, changes: dict) -> dict:
    for key, value in changes.items():
        values[key] = merge(values[key], value) if isinstance(value, dict) else value
    return values


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the project with small params, run once."""
    folder = tmp_path_factory.mktemp("home")
    for name in run(ROOT, "git", "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    yaml.dump(merge(params, SMALL), folder / "params.yaml")
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "small")
    return folder, run(folder, "dvc", "repro")


def test_one_command_runs_every_stage_and_reaches_the_metrics(home):
    folder, output = home
    stages = run(folder, "dvc", "stage", "list", "--name-only").split()
    assert ran(output) == set(stages)
    metrics = json.loads((folder / "reports/metrics.json").read_text())
    assert {"baseline", "adapter", "complex", "expansion"} <= set(metrics["semantic"]["overall"])
    assert (folder / "reports/index.html").stat().st_size > 10_000


def test_a_second_run_has_nothing_to_do(home):
    assert ran(run(home[0], "dvc", "repro")) == set()


def test_rows_in_are_rows_kept_and_rows_dropped(home):
    funnel = json.loads((home[0] / "reports/funnel.json").read_text())
    assert funnel["in"] == funnel["kept"] + sum(funnel["dropped"].values()) == 260


def test_an_experiment_on_a_loss_runs_train_its_arm_and_the_evaluation_alone(home):
    folder, _ = home
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "ran")
    before = json.loads((folder / "models/adapter/config.json").read_text())
    assert ran(run(folder, "dvc", "exp", "run", "-S", "loss.w_llm=0.5")) == {"train", "generate@adapter", "evaluate"}
    after = json.loads((folder / "models/adapter/config.json").read_text())
    assert before["about"]["loss"]["w_llm"] != after["about"]["loss"]["w_llm"] == 0.5


def test_the_outs_are_the_same_bytes_on_another_run(home):
    folder, _ = home
    run(folder, "git", "checkout", "-q", ".")
    lock = (folder / "dvc.lock").read_text()
    run(folder, "dvc", "repro", "--force", "--no-run-cache")
    assert (folder / "dvc.lock").read_text() == lock
