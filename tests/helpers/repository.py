"""Copies the project into a new repository with other params, and runs commands there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


def run(folder: Path, *command: str, fails: bool = False) -> str:
    """Runs a command and returns its output; it must succeed, or fail if `fails`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    identity = {f"GIT_{who}_{what}": "a" if what == "NAME" else "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as for most users
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=env | identity | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    )
    assert (result.returncode != 0) == fails, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def ran(output: str) -> set[str]:
    """The stages that DVC ran, from its output."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def merge(values: dict, changes: dict) -> dict:
    """Puts nested changes into nested values, in place."""
    for key, value in changes.items():
        values[key] = merge(values[key], value) if isinstance(value, dict) else value
    return values


def copy(folder: Path, preset: str, changes: dict) -> Path:
    """Copies the project's files to `folder` and commits them; params.yaml is a preset with `changes`."""
    for name in run(ROOT, "git", "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    yaml = YAML()
    params = yaml.load(folder / "presets" / f"{preset}.yaml")
    yaml.dump(merge(params, changes), folder / "params.yaml")
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "small")
    return folder
