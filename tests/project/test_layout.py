"""The house stays in order: rooms, arrows, signatures, and what the README says of them."""

import ast
import json
import platform
import re
import subprocess
import sys
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.__main__ import VERBS

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
BODIES = {name: stage.get("do", stage) for name, stage in STAGES.items()}
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
SOURCES = [p for folder in ("sur_adapter", "stages", "miniature") for p in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Every module a file names in an import, at any depth of it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reached(path: Path) -> set[Path]:
    """The project's own files behind a file, itself included."""
    seen, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        if file == ROOT / "sur_adapter/__init__.py":  # names what it loads only when asked
            continue
        for module in imports(file):
            target = ROOT / module.replace(".", "/")
            waiting += [p for p in (target.with_suffix(".py"), target / "__init__.py") if p.exists()]
    return seen


def test_the_verbs_the_files_and_the_stages_are_the_same_nine():
    files = {p.stem for p in (ROOT / "stages").glob("*.py")} - {"__init__", "__main__"}
    assert set(VERBS) == files == set(STAGES)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_signature_is_its_command_and_its_params_but_for_the_engine_which_no_stage_tracks(verb):
    arguments = signature(getattr(import_module(f"stages.{verb}"), verb)).parameters.values()
    files = [a for a in arguments if a.kind is Parameter.POSITIONAL_OR_KEYWORD]
    sections = {a.name for a in arguments if a.kind is Parameter.KEYWORD_ONLY}
    command = BODIES[verb]["cmd"].split()
    assert command[:4] == ["python", "-m", "stages", verb]
    assert sum(a.default is Parameter.empty for a in files) <= len(command) - 4 <= len(files)
    assert {re.split(r"[.$]", p)[0] for p in BODIES[verb]["params"]} == sections - {"executor"} and sections <= set(PARAMS)


@pytest.mark.parametrize("verb", sorted(BODIES))
def test_no_dep_is_listed_twice(verb):
    listed = BODIES[verb]["deps"]
    assert sorted(listed) == sorted(set(listed))


@pytest.mark.parametrize("verb", VERBS)
def test_deps_list_every_project_file_a_verb_reaches(verb):
    listed = [ROOT / d for d in BODIES[verb]["deps"] if "$" not in d]
    listed += [ROOT / item["needs"] for item in STAGES[verb].get("foreach", {}).values() if "needs" in item] if verb == "generate" else []
    small = {ROOT / "sur_adapter/__init__.py", ROOT / "sur_adapter/config.py", ROOT / "stages/__init__.py"}  # doors, not doings
    missing = {f for f in reached(ROOT / f"stages/{verb}.py") - small if not any(f == d or d in f.parents for d in listed)}
    assert {str(f.relative_to(ROOT)) for f in missing if "miniature" not in f.parts} == set()


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "sur_adapter/data/scores").glob("*.py") if p.stem != "__init__"))
def test_deps_list_every_project_file_a_score_reaches(name):
    listed = {ROOT / d.replace("${key}", name) for d in BODIES["score"]["deps"]} | {ROOT / "sur_adapter/__init__.py"}
    listed |= {ROOT / "sur_adapter/config.py", ROOT / "sur_adapter/data/scores/__init__.py"}
    assert reached(ROOT / f"sur_adapter/data/scores/{name}.py") - listed == set()


def test_every_stage_says_in_words_what_it_does():
    assert all(len(body["desc"]) > 20 for body in BODIES.values())


def test_nouns_know_no_verbs_and_verbs_know_no_other_verb():
    for path in SOURCES:
        room = path.relative_to(ROOT).parts[0]
        used = {m.split(".")[0] for m in imports(path) if m}
        if room == "sur_adapter":
            assert not used & {"stages", "dvc"}, path
        if room == "stages" and path.stem != "__main__":
            assert not any(m and m.startswith("stages.") for m in imports(path)), path
        if room == "miniature":
            assert "stages" not in used, path


def test_only_its_own_plug_ins_import_the_miniature():
    users = {
        p.relative_to(ROOT).as_posix()
        for p in SOURCES
        if p.parts[len(ROOT.parts)] != "miniature" and any("miniature" in (m or "") for m in imports(p))
    }
    assert users == {"sur_adapter/data/sources/miniature.py", "sur_adapter/evaluation/judges/pictograms.py"}


def test_the_default_params_are_the_preset_of_the_miniature():
    assert (ROOT / "params.yaml").read_text() == (ROOT / "presets/miniature.yaml").read_text()


def test_every_preset_has_the_sections_of_the_default():
    for preset in (ROOT / "presets").glob("*.yaml"):
        assert YAML(typ="safe").load(preset).keys() == PARAMS.keys(), preset.name


def test_the_tree_in_the_readme_is_the_tree_on_disk():
    tree = (ROOT / "README.md").read_text().split("## The tree")[1]
    for folder, name in re.findall(r"^    (  )?([\w./]+)  +\S", tree, re.M):
        where = [ROOT / name] if not folder else list(ROOT.glob(f"*/{name}"))
        assert any(p.exists() for p in where), name


@pytest.mark.parametrize("folder", ["stages", "sur_adapter", "miniature"])
def test_every_file_of_a_room_is_named_in_the_tree_of_the_readme(folder):
    tree = (ROOT / "README.md").read_text().split("## The tree")[1].split("\n## ")[0]
    lines = re.search(rf"^    {folder}/ .*\n((?:      .*\n)+)", tree, re.M).group(1).splitlines()
    named = {word for line in lines for word in line.strip().split("  ")[0].split()}
    there = {p.name for p in (ROOT / folder).glob("*.py")} - {"__init__.py", "__main__.py"}
    assert {name for name in named if name.endswith(".py")} == there


@pytest.mark.parametrize("folder", ["sources", "scores", "judges", "measures", "importers"])
def test_every_plug_in_is_named_in_the_tree_of_the_readme(folder):
    line = re.search(rf"^      {folder}/ .*: (.*)$", (ROOT / "README.md").read_text(), re.M).group(1)
    assert line.split(", ") == sorted(p.stem for p in (ROOT / "sur_adapter" / folder).glob("*.py") if p.stem != "__init__")


def test_the_figures_in_the_readme_are_those_of_the_metrics():
    semantic = json.loads((ROOT / "reports/metrics.json").read_text())["semantic"]
    found = (ROOT / "README.md").read_text().split("## What we found")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| .*?\(`(\w+)`\) \|(.*)\|$", found, re.M))
    assert rows.keys() == {"baseline", "adapter", "complex", "complex_adapter", "expansion"}
    for arm, cells in rows.items():
        shown = [f"{semantic[name][arm]['value']:.3f}" for name in ("action", "color", "counting", "overall")]
        assert [cell.strip() for cell in cells.split("|")] == shown
    gap = semantic["gap_closed"]
    assert f"{gap['value']:.2f}, 95 % interval {gap['low']:.2f} to {gap['high']:.2f}" in found


def test_requirements_pin_exactly():
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = [x for x in (ROOT / name).read_text().splitlines() if x and not x.startswith(("#", "-r"))]
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", x) for x in lines)


def test_functions_fit_in_the_eye_and_files_in_a_sitting():
    for path in SOURCES:
        text = path.read_text()
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, (path, node.name)


def test_training_on_words_alone_loads_no_library_of_frozen_models():
    code = "import sys, stages.train; print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own ways with memory")
def test_a_stage_does_not_fetch_its_memory_anew_in_every_step():
    code = """
import resource, torch
from stages.__main__ import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(4, 2**20).add(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults()
keep_memory()
faults()
print(before, faults())"""
    before, after = map(
        int, subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    )
    assert after < before / 10


def test_the_door_names_what_is_wrong_in_one_sentence(tmp_path, monkeypatch):
    def said(*words, params="sources: {}"):
        (tmp_path / "params.yaml").write_text(params)
        done = subprocess.run(
            [sys.executable, "-m", "stages", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={"SUR_PARAMS": str(tmp_path / "params.yaml"), "PATH": ""},
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        return done.stderr.strip().splitlines()[-1]

    assert "did you mean 'crawl'?" in said("crwal")
    assert "crawl takes out, forgotten: 0 paths were given" in said("crawl")
    assert "has no section 'sources' (did you mean 'sourcs'?)" in said("crawl", "data/raw/x", params="sourcs: {}")
