"""The docs are correct: code and notebook run, and commands, keys, links and quoted errors exist.

The tag of a block says what happens to it here:

    python       run, all of a page in one namespace, in the project's folder with an adapter in models/adapter
    bash         run, in the same place and order
    bash long    not run, because it takes minutes, a network, a GPU or another machine: each command, flag, file and key is checked
    console      `sur-adapter …`: run, except for the page that stays until it is stopped
    yaml         a piece of params.yaml: each key is one that params.yaml accepts
    text         nothing to run: printed output, or a formula
"""

import json
import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from dvc.cli import parse_args
from helpers.repository import ROOT
from helpers.written_docs import (
    PAGES,
    PARAMS,
    PLACEHOLDER,
    anchors,
    blocks,
    commands,
    help_text,
    is_key,
    is_metric,
    leaves,
    prose,
    sentences,
    stages,
)
from ruamel.yaml import YAML
from torch.distributed.run import get_args_parser

from stages.__main__ import STAGES, TOOLS
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.extras import EXTRAS
from sur_adapter.generation.arms import ARMS
from sur_adapter.reporting.report import SECTIONS

TAGS = {"python", "bash", "bash long", "console", "yaml", "text"}
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
RUNNER = """
import json, subprocess, sys
names = {"__name__": "__main__"}
for where, tag, code in json.load(sys.stdin):
    if tag == "bash":
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
    else:
        exec(compile(code, where, "exec"), names)
"""
PROGRAMS = {"cat", "cd", "cp", "export", "git", "ls", "rm", "ruff", "sed"}
# docs/troubleshooting.md quotes every message of these packages and modules, and a part of those of others
PACKAGES = r"(tools|io|executors|features|training)/.*|(data/filtering|data/crawl|evaluation|generation|models)/\w+"
DOCUMENTED = rf"stages/\w+\.py|sur_adapter/(config|{PACKAGES})\.py"
ERRORS = sorted(file for file in sentences() if re.fullmatch(DOCUMENTED, file))
FOR_DEVELOPERS = {  # messages for developers
    "sur_adapter/features/store.py": {"…: … ids, but … rows of …"},
    "sur_adapter/config.py": {"params.yaml: ….…"},  # the key in front of a dataclass's own message
}


@pytest.fixture
def home(tmp_path) -> Path:
    """The project's folder as a page finds it: its own params, data and reports, and an adapter that changes its input."""
    folder = tmp_path / "project"
    folder.mkdir()
    for path in ROOT.iterdir():
        if not path.name.startswith((".", "_")) and path.name not in ("data", "models", "reports", "params.yaml"):
            (folder / path.name).symlink_to(path)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "reports", folder / "reports")
    (folder / "data").mkdir()
    for name in ("forgotten.txt", "splits.csv", "votes.csv"):
        shutil.copy(ROOT / "data" / name, folder / "data")
    (folder / "models").mkdir()
    (folder / "models/miniature").symlink_to(ROOT / "models/miniature")
    torch.manual_seed(0)
    model = SURAdapter(AdapterConfig(128, depth=1, heads=2, about={"base_model": "models/miniature/stable-diffusion"}))
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.1 * torch.randn_like(weights))  # an untrained adapter is the identity
    model.save_pretrained(folder / "models/adapter")
    return folder


def run_in(home: Path, steps: list[tuple[str, str, str]], *command: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "SUR_WORK": str(home.parent / "work"), "MPLBACKEND": "agg"}
    command = command or (sys.executable, "-c", RUNNER)
    return subprocess.run(command, cwd=home, env=env, input=json.dumps(steps), capture_output=True, text=True, timeout=300)


def runnable(page: Path) -> list[tuple[str, str, str]]:
    return [(f"{page.name}, line {line}", tag, code) for tag, code, line in blocks(page) if tag in ("python", "bash")]


@pytest.mark.parametrize("page", [page for page in [*PAGES, README] if runnable(page)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs_in_its_order(page, home):
    done = run_in(home, runnable(page))
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_notebook_of_the_quick_start_is_valid_and_runs(home):
    book = json.loads((ROOT / "docs/quickstart.ipynb").read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5) and set(book) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", i) for i in ids)
    common = {"cell_type", "id", "metadata", "source"}
    for cell in book["cells"]:
        more = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert set(cell) == common | more and all(cell.get(key) in ([], None) for key in more)
    steps = [(cell["id"], "python", "".join(cell["source"])) for cell in book["cells"] if cell["cell_type"] == "code"]
    done = run_in(home, steps)
    assert done.returncode == 0 and len(steps) > 3, done.stderr[-3000:]


@pytest.mark.parametrize("page", [*PAGES, README, CONTRIBUTING], ids=lambda page: page.name)
def test_every_block_has_a_known_tag(page):
    assert {tag for tag, _, _ in blocks(page)} <= TAGS


@pytest.mark.parametrize("page", [*PAGES, README, CONTRIBUTING], ids=lambda page: page.name)
def test_commands_that_are_not_run_here_exist(page):
    """Those of blocks, indented or fenced, and those in a sentence."""
    known = "(?:python -m|dvc|pip|pytest|ruff|sed) "
    codes = [code for tag, code, _ in blocks(page) if tag == "bash long"]
    codes += re.findall(rf"^    ({known}.*)$", prose(page), re.M) + re.findall(rf"`({known}[^`]*)`", " ".join(prose(page).split()))
    assert codes or page.name in ("index.md", "method.md")
    for code in codes:
        for arguments in commands(code):
            check_command(arguments)


def check_command(arguments: list[str]) -> None:
    """AssertionError for a command that cannot run."""
    program, *rest = arguments
    if program == "python" and rest[0] == "-m":
        check_module(rest[1:])
    elif program == "dvc":
        check_dvc(rest)
    elif program == "torchrun":
        check_module(launched_module(get_args_parser().parse_args(rest)))
    elif program == "accelerate":
        assert rest[0] == "launch"
        check_module(launched_module(launch_command_parser().parse_args(rest[1:])))
    elif program == "ray":
        check_ray(rest)
    elif program == "pip":
        assert rest[0] == "install"
        assert all((ROOT / name).exists() for flag, name in zip(rest, rest[1:], strict=False) if flag == "-r"), arguments
    elif program == "pytest":
        assert all((ROOT / name).exists() for name in rest if not name.startswith("-")), arguments
    else:
        assert program in PROGRAMS, f"{program} is not a known program"
    folders = r"(presets|prompts|stages|sur_adapter|tests|experiments|miniature|docs|models/miniature)/"
    for word in (word for word in rest if re.match(folders, word)):
        assert list(ROOT.glob(word.rstrip("/"))), f"{word} does not exist"


def check_ray(arguments: list[str]) -> None:
    """Ray's help is read in another process: importing Ray here would settle its authentication."""
    if find_spec("ray"):
        text = help_text("ray.scripts.scripts", arguments[0])
        assert text and all(word.split("=")[0] in text for word in arguments[1:]), arguments


def launched_module(args) -> list[str]:
    assert args.module, "the stage is a module"
    return [args.training_script, *args.training_script_args]


def check_module(arguments: list[str]) -> None:
    name, *rest = arguments
    assert find_spec(name), f"there is no module {name}"
    if name == "stages":
        check_stage(rest)
    elif name == "sur_adapter":
        text = help_text(name, *rest[:1])
        assert text and all(word in text for word in rest if word.startswith("--")), arguments
    elif name.startswith(("experiments", "miniature")) and rest:
        source = Path(find_spec(name + ".__main__" if find_spec(name).submodule_search_locations else name).origin).read_text()
        assert rest[0] in source, f"{name} has no {rest[0]}"


def check_stage(arguments: list[str]) -> None:
    """A stage or tool parses its options; a command that is only named, without options, must exist."""
    if arguments == ["--help"]:
        return
    command, *options = arguments
    assert command in {*STAGES, *TOOLS}, f"there is no stage or tool {command}"
    if not options or options == ["--help"]:
        return
    parser = ArgumentParser(command, exit_on_error=False)
    import_module(f"stages.{command}" if command in STAGES else TOOLS[command][0]).add_arguments(parser)
    try:
        parser.parse_args(options)
    except SystemExit as error:
        raise AssertionError(f"python -m stages {' '.join(arguments)} is refused by its parser") from error


def check_dvc(arguments: list[str]) -> None:
    """DVC's own parser accepts it, and its keys and targets exist."""
    try:
        args = parse_args(arguments)
    except SystemExit as error:
        raise AssertionError(f"dvc {' '.join(arguments)} is not a command of DVC") from error
    for change in getattr(args, "set_param", None) or []:
        assert is_key(change.split("=")[0].lstrip("+~")), change
    if arguments[0] in ("repro", "push", "pull"):
        outs = ("data/", "models/", "reports/")
        assert all(t in stages() or (ROOT / t).exists() or t.startswith(outs) for t in args.targets), arguments


@pytest.mark.parametrize("page", [*PAGES, README, CONTRIBUTING], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists() and ROOT in file.parents, f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def test_every_page_is_linked_from_the_index_and_the_index_from_the_readme():
    linked = set(re.findall(r"\]\(([\w-]+\.(?:md|ipynb))\)", prose(ROOT / "docs/index.md")))
    assert linked == {p.name for p in (ROOT / "docs").iterdir()} - {"index.md"}
    assert "(docs/index.md)" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_and_figure_that_is_named_exists(page):
    figures = {"semantic", "soft", "clip_score", "quality", "diversity", "counts", "agreement", "embedding", "strength"}
    figures |= set(json.loads((ROOT / "reports/metrics.json").read_text()))
    for word in re.findall(r"`([a-z_]+(?:\.[\w<>-]+)+)(?:[:=][^`]*)?`", prose(page)):
        head = word.split(".")[0]
        if word.endswith((".py", ".json", ".yaml", ".md", ".csv", ".parquet", ".txt", ".lock")):
            continue
        if word in EXTRAS:  # a module
            continue
        if head in PARAMS:
            assert is_key(word), f"{page.name}: params.yaml has no key {word}"
        elif head in figures:
            assert is_metric(word), f"{page.name}: metrics.json has no {word}"


@pytest.mark.parametrize(
    "folder, page",
    [
        ("sur_adapter/data/sources", "surd"),
        ("sur_adapter/data/scores", "surd"),
        ("sur_adapter/data/sentences", "teacher"),
        ("sur_adapter/evaluation/judges", "evaluate"),
        ("sur_adapter/evaluation/metrics", "evaluate"),
        ("presets", "train"),
    ],
)
def test_every_plug_in_and_preset_is_documented(folder, page):
    is_preset = folder == "presets"
    names = {path.name if is_preset else path.stem for path in (ROOT / folder).glob("*.*")} - {"__init__", "base"}
    documented = set(re.findall(r"`(?:presets/)?([\w.-]+)`", prose(ROOT / f"docs/{page}.md")))
    assert names - documented == set()


def test_the_page_on_the_report_explains_each_section():
    titles = set(SECTIONS.values())
    assert len(titles) >= 12 and titles <= set(re.findall(r"^## (.*)$", prose(ROOT / "docs/report.md"), re.M))


def test_every_arm_is_documented():
    assert {f"`{arm}`" for arm in ARMS} <= set(re.findall(r"^\| (`\w+`) \|", prose(ROOT / "docs/evaluate.md"), re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_piece_of_params_has_known_keys(page):
    for code in (code for tag, code, _ in blocks(page) if tag == "yaml"):
        for key in leaves(YAML(typ="safe").load(code)):
            assert is_key(key), f"{page.name}: params.yaml has no key {key}"


@pytest.mark.parametrize("key", list(leaves(PARAMS)))
def test_every_key_of_params_is_documented(key):
    assert is_key(key)
    assert any(f"`{key}`" in prose(page) or re.search(f"`{re.escape(key)}[:=]", prose(page)) for page in PAGES)


def quoted() -> list[str]:
    """The messages in the first column of the page of errors."""
    return re.findall(r"^\| `` (.+?) `` \|", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.M)


def test_every_message_that_the_page_of_errors_quotes_is_in_the_code():
    messages = set().union(*sentences().values())
    assert len(quoted()) > 50 and len(set(quoted())) == len(quoted())
    assert [text for text in quoted() if not any(text in message for message in messages)] == []


@pytest.mark.parametrize("file", ERRORS)
def test_the_page_of_errors_has_every_message_of_a_file(file):
    messages = sentences(with_ranges=False)[file] - FOR_DEVELOPERS.get(file, set())
    assert [text for text in messages if not any(part in text for part in quoted() if part.strip(PLACEHOLDER + " :"))] == []


@pytest.mark.parametrize("arguments", [w for page in PAGES for tag, code, _ in blocks(page) if tag == "console" for w in commands(code)])
def test_the_command_line_does_what_the_docs_say(arguments, home):
    assert arguments[:2] == ["$", "sur-adapter"], "a line of the console begins with a dollar"
    _, _, name, *options = arguments
    text = help_text("sur_adapter", name)
    assert text is not None, f"there is no `sur-adapter {name}`"
    assert all(word in text for word in options if word.startswith("-"))
    if name != "demo":  # which runs until it is stopped
        done = run_in(home, [], sys.executable, "-m", "sur_adapter", name, *options)
        assert done.returncode == 0, done.stderr[-3000:]
