"""The package as pip installs it: its files, its dependencies, and its import time."""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from email import message_from_bytes
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
from helpers.bare_python import hide_other_packages, installed_distributions
from helpers.miniature_adapter import random_adapter
from helpers.repository import ROOT
from packaging.requirements import Requirement
from PIL import Image
from ruamel.yaml import YAML

import sur_adapter

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS, EXTRAS = PROJECT["dependencies"], PROJECT["optional-dependencies"]
HEAVY = {"pandas", "dvc", "aiohttp", "pyarrow", "scipy"}


def python(code: str, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    if find_spec("setuptools") is None or find_spec("pip") is None:
        pytest.skip("pip or setuptools is not installed, and tests download nothing")
    home, out = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("wheels")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home)
    shutil.copytree(ROOT / "sur_adapter", home / "sur_adapter", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "stages", home / "stages", ignore=shutil.ignore_patterns("__pycache__"))  # must not be in the wheel
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out)]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("*.whl"))


def metadata(wheel: Path):
    file = next(name for name in ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(ZipFile(wheel).read(file))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder of packages with only the wheel in it."""
    folder = tmp_path_factory.mktemp("site")
    ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_holds_exactly_the_files_of_the_package(wheel):
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for path in (ROOT / "sur_adapter").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {path.relative_to(ROOT).as_posix() for path in files}


def test_the_wheel_requires_six_libraries_and_none_of_the_pipeline(wheel):
    requirements = metadata(wheel).get_all("Requires-Dist")
    names = {re.match(r"[\w-]+", line).group().lower().replace("_", "-") for line in requirements if "extra ==" not in line}
    assert names == {"torch", "diffusers", "transformers", "safetensors", "huggingface-hub", "pillow"}


def test_the_wheel_names_its_licence_urls_and_extras_and_holds_the_licence_text_and_py_typed(wheel):
    fields, names = metadata(wheel), ZipFile(wheel).namelist()
    assert fields["License-Expression"] == "Apache-2.0" and fields["Version"] == sur_adapter.__version__
    licence = next(name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    assert "Apache License" in ZipFile(wheel).read(licence).decode() and "sur_adapter/py.typed" in names
    assert any(url.endswith("https://arxiv.org/abs/2305.05189") for url in fields.get_all("Project-URL"))
    assert set(fields.get_all("Provides-Extra")) == {"demo", "serve", "pipeline", "crawl", "train", "ray", "s3", "nsfw", "iqa", "faces"}


def test_licence_citation_and_changes_agree_with_the_version():
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert citation["version"] == sur_adapter.__version__ and citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == sur_adapter.__version__
    assert (ROOT / "LICENSE").read_text().count("\n") > 190, "the whole text"


def test_the_pinned_versions_are_within_the_bounds_of_the_package_and_its_extras():
    lines = [line for file in ("requirements.txt", "requirements-dev.txt") for line in (ROOT / file).read_text().splitlines()]
    pins = {(pin := Requirement(line)).name.lower().replace("_", "-"): pin for line in lines if line and line[0] not in "#-"}
    for requirement in map(Requirement, [*REQUIREMENTS, *(line for extra in EXTRAS.values() for line in extra)]):
        name = requirement.name.lower().replace("_", "-")
        if name in pins:
            assert requirement.specifier.contains(str(pins[name].specifier).removeprefix("==")), requirement
    assert all(Requirement(line).specifier for line in REQUIREMENTS), "each dependency has a lower bound"


def test_the_workflow_tests_every_python_of_the_package_and_files_that_exist():
    jobs = YAML(typ="safe").load(ROOT / ".github/workflows/ci.yml")["jobs"]
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert named <= set(jobs["test"]["strategy"]["matrix"]["python"]) and f">={min(named)}" == PROJECT["requires-python"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    tests = [word for command in commands if command.startswith("pytest ") for word in command.split()[1:]]
    assert tests and all((ROOT / test).exists() for test in tests)
    assert {"ruff check .", "ruff format --check .", "pytest"} <= set(commands)


def test_a_build_leaves_nothing_that_git_would_add():
    folders = ("build", "sur_adapter.egg-info")
    done = subprocess.run(["git", "check-ignore", *(f"{folder}/x" for folder in folders)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("this copy is not a git repository")
    assert done.stdout.split() == [f"{folder}/x" for folder in folders]


def test_its_dependencies_include_numpy_and_nothing_of_the_pipeline():
    names = installed_distributions(REQUIREMENTS)
    assert "numpy" in names and not names & {"dvc", "pandas", "pyarrow", "aiohttp", "scipy", "accelerate", "webdataset", "gradio"}


def test_installed_alone_it_works_in_a_pipeline_and_from_the_command_line(wheel, installed, tmp_path):
    mine = random_adapter(tmp_path / "adapter")
    file = next(name for name in ZipFile(wheel).namelist() if name.endswith("entry_points.txt"))
    module, function = re.search(r"^sur-adapter = ([\w.]+):(\w+)$", ZipFile(wheel).read(file).decode(), re.M).groups()
    code = f"""{hide_other_packages(REQUIREMENTS)}
import torch, sur_adapter
from diffusers import DiffusionPipeline
from sur_adapter import SURAdapter, attach
adapter = SURAdapter.from_pretrained({str(mine)!r})
pipe = DiffusionPipeline.from_pretrained(adapter.config.about["base_model"])
def image(): return pipe("three kittens", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0].tobytes()
plain = image()
handle = attach(pipe, adapter)
assert image() != plain
handle.remove()
assert image() == plain
from {module} import {function}
sys.argv = ["sur-adapter", "generate", "three kittens", "--adapter", {str(mine)!r}, "--steps", "2", "--compare", "-o", "out.png"]
{function}()
print(sur_adapter.__file__, sorted({HEAVY!r} & set(sys.modules)))"""
    lines = python(code, tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert lines[-2].startswith("out.png: without the adapter | with the adapter, strength 1;")
    assert lines[-1] == f"{installed}/sur_adapter/__init__.py []"
    assert Image.open(tmp_path / "out.png").width > 2 * 256


def test_the_public_names_import_within_two_seconds_after_torch_and_load_nothing_of_the_pipeline():
    code = f"""
import sys, time, torch
started = time.perf_counter()
from sur_adapter import SURAdapter, attach
print(time.perf_counter() - started, sorted({HEAVY | {"diffusers", "transformers"}!r} & set(sys.modules)))"""
    runs = [python(code).split(maxsplit=1) for _ in range(3)]
    assert {there.strip() for _, there in runs} == {"[]"}
    assert min(float(seconds) for seconds, _ in runs) < 2


def test_help_is_shown_within_a_second():
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "sur_adapter", "--help"], cwd=ROOT, capture_output=True, text=True)
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0 and "generate" in done.stdout
    assert min(seconds) < 1
