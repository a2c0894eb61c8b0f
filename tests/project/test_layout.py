"""The architecture holds: imports point down, dvc.yaml depends on the code that runs, plug-ins have contracts, README and presets agree."""

import ast
import json
import os
import platform
import re
import subprocess
import sys
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

import pytest
from helpers.import_graph import PACKAGE_ROOT, SOURCES, carries_code, cycles, imported_files, imported_names, module_file, parse, reached
from helpers.repository import ROOT
from ruamel.yaml import YAML

from stages.__main__ import STAGES, TOOLS
from sur_adapter.generation.arms import ARMS
from sur_adapter.registry import names

DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
BODIES = {name: stage.get("do", stage) for name, stage in DVC.items()}
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
LAYERS = [
    {"experiments"},
    {"stages"},
    {"tools", "reporting", "cli", "__main__"},
    {"hub", "model_card"},
    {"training", "evaluation", "generation"},
    {"features", "adapter"},
    {"data"},
    {"executors", "models"},
    {"io", "config", "registry", "extras", "version"},
    {"miniature"},
]
PLUG_INS = [
    "data/sources",
    "data/scores",
    "data/sentences",
    "features/extractors",
    "evaluation/judges",
    "evaluation/metrics",
    "generation/prompt_formats",
]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def package(path: Path) -> str:
    """The package of a file in LAYERS: `training`, `io`, `stages`, ..."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "sur_adapter" else parts[0]


def layer(path: Path) -> int:
    return next(number for number, packages in enumerate(LAYERS) if package(path) in packages)


LIBRARY = [path for path in SOURCES if path != PACKAGE_ROOT]


def test_there_is_no_import_cycle():
    assert cycles(LIBRARY) == []


def test_imports_point_down():
    arrows = [(path, other) for path in LIBRARY for other in imported_files(path) if other != PACKAGE_ROOT]
    upward = {f"{name(path)} imports {name(other)}" for path, other in arrows if layer(other) < layer(path)}
    assert upward == set()


def test_the_library_imports_neither_a_stage_nor_its_own_package_root():
    wrong = {
        f"{name(path)} imports {name(other)}"
        for path in LIBRARY
        for other in imported_files(path)
        if (package(other) == "stages" and package(path) not in ("stages", "experiments")) or (other == PACKAGE_ROOT)
    }
    assert wrong == set()


def test_no_stage_imports_another():
    stages = [ROOT / f"stages/{stage}.py" for stage in STAGES]
    assert {name(path) for path in stages for other in imported_files(path) if other in stages} == set()


def test_no_private_name_is_imported_from_another_package():
    private = {
        f"{name(path)} imports {module}.{imported}"
        for path in LIBRARY
        for module, imported in imported_names(path)
        if (file := module_file(module)) and package(file) != package(path)
        if any(part.startswith("_") and not part.startswith("__") for part in (*module.split("."), imported))
    }
    assert private == set()


def test_only_its_own_plug_ins_import_the_miniature():
    users = {name(path) for path in LIBRARY for other in imported_files(path) if package(other) == "miniature" != package(path)}
    users = {user for user in users if user.startswith(("sur_adapter", "stages"))}
    plug_ins = {"sur_adapter/data/sentences/miniature.py", "sur_adapter/data/sources/miniature.py"}
    assert users == plug_ins | {"sur_adapter/evaluation/judges/pictograms.py"}


def test_the_miniature_imports_nothing_of_the_library():
    assert {name(path) for path in LIBRARY for other in imported_files(path) if package(path) == "miniature" != package(other)} == set()


def test_modules_and_stages_of_dvc_yaml_are_the_same_ten():
    files = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__", "__main__"}
    assert set(STAGES) == files == set(DVC)


@pytest.mark.parametrize("command", [*STAGES, *TOOLS])
def test_a_stage_or_tool_has_options_and_a_run_function(command):
    module = import_module(f"stages.{command}" if command in STAGES else TOOLS[command][0])
    parser = ArgumentParser(command)
    module.add_arguments(parser)
    options = [action for action in parser._actions if action.dest != "help"]
    assert callable(module.run) and all(action.help for action in options), "each option has a help text"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_the_options_of_its_command_in_dvc_yaml(stage):
    parser = ArgumentParser(stage, exit_on_error=False)
    import_module(f"stages.{stage}").add_arguments(parser)
    for item in foreach_items(stage):
        command = resolve(BODIES[stage]["cmd"], stage, item).split()
        assert command[:4] == ["python", "-m", "stages", stage]
        parser.parse_args(command[4:])


def test_the_groups_of_generate_have_each_arm_once_as_outs_and_are_all_with_or_all_without_the_adapter():
    drawn = []
    for item, values in foreach_items("generate").items():
        arms, command = values["arms"].split(), resolve(BODIES["generate"]["cmd"], "generate", item)
        assert {resolve(out, "generate", item) for out in BODIES["generate"]["outs"]} == {f"data/images/{arm}" for arm in arms}
        assert {ARMS[arm].with_adapter for arm in arms} == {"--adapter models/adapter" in command}
        assert (values["also"] == "cache.sentences") == ("rewrite" in arms), "only the group of rewrite depends on the LLM"
        drawn += arms
    assert sorted(drawn) == sorted(ARMS)


def foreach_items(stage: str) -> dict[str, dict]:
    """name -> values of each foreach item of a stage; one item '' for a stage that is not a foreach."""
    items = DVC[stage].get("foreach", {"": {}})
    return PARAMS[items[2:-1]] if isinstance(items, str) else items


def resolve(text: str, stage: str, item: str) -> str:
    """Fills in the ${...} of a text of dvc.yaml for a foreach item of a stage."""
    text = text.replace("${key}", item)
    text = re.sub(r"\$\{item\.(\w+)\}", lambda match: str(foreach_items(stage)[item][match[1]]), text)
    return re.sub(r"\$\{(\w+)\.(\w+)\}", lambda match: str(PARAMS[match[1]][match[2]]), text)


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_tracks_the_sections_that_a_stage_reads_except_the_executor(stage):
    calls = [node for node in ast.walk(parse(ROOT / f"stages/{stage}.py")) if isinstance(node, ast.Call)]
    reads = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in ("section", "raw") and call.args]
    sections = {first_text(call.args[0]).split(".")[0] for call in reads}
    tracked = {resolve(key, stage, item) for key in BODIES[stage]["params"] for item in foreach_items(stage)}
    assert sections - {"executor"} == {key.split(".")[0] for key in tracked}
    assert sections <= set(PARAMS)


def first_text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        node = node.values[0]
    assert isinstance(node, ast.Constant), f"line {node.lineno}: name the section of params.yaml in the call itself"
    return node.value


@pytest.mark.parametrize("stage", sorted(BODIES))
def test_no_dep_is_listed_twice(stage):
    listed = BODIES[stage]["deps"]
    assert sorted(listed) == sorted(set(listed))


CODE_ITEMS = [(stage, item) for stage in DVC for item in foreach_items(stage)]


def code_deps(stage: str, item: str) -> list[Path]:
    deps = [ROOT / resolve(dep, stage, item) for dep in BODIES[stage]["deps"]]
    code = [dep for dep in deps if dep.relative_to(ROOT).parts[0] in ("sur_adapter", "stages", "miniature")]
    return [dep for dep in code if dep.is_dir() or carries_code(dep)]  # items without an adapter name an empty __init__.py instead


def covered(file: Path, deps: list[Path]) -> bool:
    return any(file == dep or dep in file.parents for dep in deps)


def code(stage: str) -> set[Path]:
    return reached(ROOT / f"stages/{stage}.py")


@pytest.mark.parametrize("stage, item", CODE_ITEMS)
def test_deps_cover_the_code_that_a_stage_reaches(stage, item):
    assert {name(file) for file in code(stage) if not covered(file, code_deps(stage, item))} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_no_dep_is_listed_that_no_item_of_the_stage_reaches(stage):
    needed = {dep for each, item in CODE_ITEMS if each == stage for dep in code_deps(stage, item)}
    used = {dep for dep in needed if any(covered(file, [dep]) for file in code(stage))}
    package = {ROOT / "stages/__init__.py"}  # the dep of items of `generate` without an adapter
    assert {name(dep) for dep in needed} - {name(dep) for dep in used | package} == set()


def test_dvc_yaml_names_folders_of_the_library_in_few_lines():
    listed = [dep for body in BODIES.values() for dep in body["deps"] if dep.startswith("sur_adapter")]
    assert len(listed) <= 56 and all((ROOT / dep).exists() for dep in listed if "$" not in dep)


def test_every_stage_has_a_description():
    assert all(len(body["desc"]) > 20 for body in BODIES.values())


@pytest.mark.parametrize("folder", PLUG_INS)
def test_a_plug_in_package_has_its_contract(folder):
    place = ROOT / "sur_adapter" / folder
    classes = [node for file in (place / "__init__.py", place / "base.py") if file.exists() for node in parse(file).body]
    classes = [node for node in classes if isinstance(node, ast.ClassDef)]
    contracts = [node for node in classes if any(ast.unparse(base) in ("Protocol", "ABC") for base in node.bases)]
    assert contracts and all(ast.get_docstring(contract) for contract in contracts)


@pytest.mark.parametrize("folder", [folder for folder in PLUG_INS if folder != "generation/prompt_formats"])
def test_each_plug_in_has_a_dataclass_of_its_settings(folder):
    for plug_in in names(f"sur_adapter.{folder.replace('/', '.')}"):
        classes = [node for node in parse(ROOT / f"sur_adapter/{folder}/{plug_in}.py").body if isinstance(node, ast.ClassDef)]
        assert any(node.name == "Config" and any("dataclass" in ast.unparse(d) for d in node.decorator_list) for node in classes), plug_in


def test_the_default_params_are_the_preset_of_the_miniature():
    assert (ROOT / "params.yaml").read_text() == (ROOT / "presets/miniature.yaml").read_text()


def test_every_preset_has_the_sections_of_the_default():
    for preset in (ROOT / "presets").glob("*.yaml"):
        assert YAML(typ="safe").load(preset).keys() == PARAMS.keys(), preset.name


def section(page: str, title: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_readme_is_short_and_names_every_package():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90
    listed = re.findall(r"^    (\s*)([\w./, ]+?)(?:  |$)", section("README.md", "Layout"), re.M)
    paths = {word.strip(",") for _, words in listed for word in words.split()}
    assert all((ROOT / path).exists() or (ROOT / "sur_adapter" / path).exists() for path in paths), paths
    folders = {path.name for path in (ROOT / "sur_adapter").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {f"{folder}/" for folder in folders} <= paths


def test_every_file_that_contributing_names_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`([\w.-]+/[\w./-]*|[A-Z]+\.md|(?:params|dvc)\.yaml)`", text))
    assert len(paths) > 20 and {path for path in paths if not (ROOT / path).exists()} == set()


def test_contributing_answers_the_typical_changes():
    tasks = re.findall(r"^\| ([a-z].*?) \| (.*?) \|", section("CONTRIBUTING.md", "Where to change what"), re.M)
    assert len(tasks) >= 10 and all("`" in files for _, files in tasks)


def test_the_log_has_dated_entries_with_a_verdict_newest_first():
    for topic in (ROOT / "LOG.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        entries = re.findall(r"^### (.*)$", topic, re.M)
        dates = [re.fullmatch(r"(\d{4}-\d\d-\d\d) \S.*: \S.*", entry)[1] for entry in entries]
        assert dates and dates == sorted(dates, reverse=True), topic.splitlines()[0]


def test_the_gap_in_the_readme_is_that_of_the_metrics():
    gap = json.loads((ROOT / "reports/metrics.json").read_text())["semantic"]["gap_closed"]
    text = " ".join(section("README.md", "Results").split())
    assert f"seed 0, closes {gap['value']:.2f} [{gap['low']:.2f}, {gap['high']:.2f}] of the gap" in text


def test_requirements_pin_exactly():
    for file in ("requirements.txt", "requirements-dev.txt"):
        lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith(("#", "-r"))]
        assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", line) for line in lines)


def test_functions_and_files_are_short():
    for path in SOURCES:
        assert path.read_text(encoding="utf-8").count("\n") <= 300, path
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, (path, node.name)


def test_every_module_begins_with_a_docstring():
    assert {name(path) for path in SOURCES if carries_code(path) and not ast.get_docstring(parse(path))} == set()


def test_training_on_features_alone_loads_no_library_of_frozen_models():
    code = "import sys, stages.train; print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library manages memory in other ways")
def test_a_stage_keeps_the_memory_that_a_step_frees():
    code = """
import contextlib, io, resource, torch
from stages.__main__ import main
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(4, 2**20).add(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main(["train", "--help"])  # loads the stage as a run of it does
faults()
print(before, faults())"""
    before, after = map(
        int, subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    )
    assert after < before / 10


def command_line(*words: str, params: Path | None = None) -> subprocess.CompletedProcess:
    env = os.environ | {"SUR_PARAMS": str(params or ROOT / "params.yaml")}
    return subprocess.run([sys.executable, "-m", "stages", *words], cwd=ROOT, capture_output=True, text=True, env=env)


def test_the_command_line_says_what_is_wrong_in_one_sentence(tmp_path):
    def error(*words: str, params: str = "sources: {}") -> str:
        (tmp_path / "params.yaml").write_text(params)
        done = command_line(*words, params=tmp_path / "params.yaml")
        assert done.returncode and "Traceback" not in done.stderr, done.stderr
        return done.stderr.strip().splitlines()[-1]

    assert "did you mean 'crawl'?" in error("crwal")
    assert "the following arguments are required: --raw" in error("caption", "--out", "x")
    missing = error("caption", "--raw", "x", "--out", "y", params="captoin: {}")
    assert "has no section 'caption' (did you mean 'captoin'?)" in missing


def test_help_lists_each_stage_and_tool_and_the_options_of_one():
    text = command_line("--help").stdout
    assert all(re.search(rf"^\s+{command}\s+\w", text, re.M) for command in (*STAGES, *TOOLS))
    assert "--raw" in command_line("caption", "--help").stdout
