"""Every module of the package imports with the extra that the docs name for it, and without it names that extra in one sentence."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.bare_python import hide_other_packages
from helpers.repository import ROOT

from sur_adapter.extras import EXTRAS, ONLY_IN_THE_REPOSITORY, extra_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "sur_adapter").rglob("*.py"))]
MODULES = [".".join(path.parts).removesuffix(".__init__") for path in FILES if path.stem != "__main__"]
OF_THE_MINIATURE = {
    "sur_adapter.data.sources.miniature",
    "sur_adapter.data.sentences.miniature",
    "sur_adapter.evaluation.judges.pictograms",
}
IMPORT_ALL = """
import importlib, json
errors = {{}}
for module in {modules!r}:
    try:
        importlib.import_module(module)
    except ImportError as error:
        errors[module] = f"{{type(error).__name__}}: {{error}}"
print(json.dumps(errors))"""


def requirements(*extras: str) -> list[str]:
    """The dependencies of the package with extras, those of extras that name another extra included."""
    lines, waiting = list(PROJECT["dependencies"]), list(extras)
    while waiting:
        for line in PROJECT["optional-dependencies"][waiting.pop()]:
            nested = re.fullmatch(r"sur-adapter\[(.*)\]", line)
            waiting += nested[1].split(",") if nested else []
            lines += [] if nested else [line]
    return lines


def import_errors(folder: Path, modules: list[str], *extras: str) -> dict[str, str]:
    """module -> error of those that cannot be imported where only the package is installed, with these extras."""
    (folder / "sur_adapter").symlink_to(ROOT / "sur_adapter")  # without the folders beside it, as in a wheel
    code = hide_other_packages(requirements(*extras)) + IMPORT_ALL.format(modules=modules)
    env = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_without_extras_a_module_imports_or_names_its_extra_in_one_sentence(tmp_path):
    errors = import_errors(tmp_path, MODULES)
    assert len(errors) > 50, "the modules of the pipeline need more than the package"
    for module, error in errors.items():
        library = r"[\w.]+"
        expected = (
            rf"ModuleNotFoundError: {module} needs {library}, which is not installed: pip install 'sur-adapter\[{extra_of(module)}\]'"
        )
        of_miniature = rf"ModuleNotFoundError: {module} needs the package miniature, which is only in the project's repository: .*"
        assert re.fullmatch(of_miniature if module in OF_THE_MINIATURE and "miniature," in error else expected, error), error
    assert {module for module in errors if extra_of(module) is None} == set()


@pytest.mark.parametrize("extra", sorted({*EXTRAS.values()}))
def test_with_its_extra_every_module_imports(tmp_path, extra):
    mine = [module for module in MODULES if extra_of(module) == extra]
    if extra == "demo":
        pytest.importorskip("gradio", reason="the page needs the package gradio")
    errors = import_errors(tmp_path, mine, extra)
    assert mine and set(errors) == OF_THE_MINIATURE & set(mine), errors
    assert all(f"needs the package {ONLY_IN_THE_REPOSITORY[0]}, which is only in the project's repository" in e for e in errors.values())


def test_the_table_of_extras_in_the_docs_is_that_of_the_code():
    page = (ROOT / "docs/use.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (`.*`) \|$", page, re.M)
    assert {module: extra for extra, modules in rows for module in re.findall(r"`([\w.]+)`", modules)} == EXTRAS
    assert {extra for extra, _ in rows} | {"serve"} == set(PROJECT["optional-dependencies"])


def test_every_name_in_the_table_is_a_module_or_a_package():
    assert {name for name in EXTRAS if f"sur_adapter.{name}" not in MODULES} == set()


def test_a_mistake_in_a_module_is_not_taken_for_a_missing_extra(tmp_path):
    (tmp_path / "sur_adapter").mkdir()
    for name in ("__init__", "extras", "version"):
        (tmp_path / f"sur_adapter/{name}.py").symlink_to(ROOT / f"sur_adapter/{name}.py")
    (tmp_path / "sur_adapter/config.py").write_text("import sur_adapter.nowhere\n")
    done = subprocess.run([sys.executable, "-c", "import sur_adapter.config"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'sur_adapter.nowhere'"
