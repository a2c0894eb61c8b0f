"""What docs/ says is so: its blocks run, its commands, keys, links and sentences exist, and the notebook of the quick start runs.

Blocks say by their tag what becomes of them here:

    python       run, all of a page in one namespace, in the project's folder with an adapter in models/adapter
    bash         run, in the same place and order
    bash long    not run, since it takes minutes, a network, a GPU or another machine: each command, flag, file and key is checked
    console      `sur-adapter …`: run, but for the page that stays until it is stopped
    yaml         a piece of params.yaml: each key is one that params.yaml takes
    text         nothing to run: what is printed, or a formula
    mermaid      a drawing, in the README alone
"""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from dvc.cli import parse_args
from helpers.repository import ROOT
from helpers.written_docs import (
    DVC,
    HOLE,
    PAGES,
    PARAMS,
    anchors,
    blocks,
    commands,
    helped,
    is_key,
    leaves,
    metric,
    prose,
    sentences,
    stages,
)
from ruamel.yaml import YAML
from torch.distributed.run import get_args_parser

from stages.__main__ import COMMANDS, VERBS
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.evaluation.sample_selection import HEADINGS
from sur_adapter.generation.arms import ARMS

TAGS = {"python", "bash", "bash long", "console", "yaml", "text"}
README = ROOT / "README.md"
RUNNER = """
import json, subprocess, sys
names = {"__name__": "__main__"}
for where, tag, code in json.load(sys.stdin):
    if tag == "bash":
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
    else:
        exec(compile(code, where, "exec"), names)
"""
TOOLS = {"cat", "cd", "cp", "export", "git", "ls", "rm", "sed"}
NOUNS = (
    "album bank captioner cluster compute denoising diffusion executor export forget gauges kept lane metrics objective overlap pictures "
    "pool portion prompts records schema sealed spoilt store strengths suite teacher trainer vote whole work"
)
ERRORS = [*(f"stages/{name}.py" for name in (*VERBS, "__main__")), *(f"sur_adapter/{name}.py" for name in NOUNS.split())]
# the page of troubles has every sentence of these; of other files, what it quotes must be there
NOT_OURS = {
    "sur_adapter/features/store.py": {"column … is not laid out plainly", "…: … ids, but … rows of …"}
}  # of callers in code, not of users


@pytest.fixture
def home(tmp_path) -> Path:
    """The project's folder as a page finds it: its own params, data and reports, and an adapter that was trained, as it were."""
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
            weights.add_(0.1 * torch.randn_like(weights))  # what an adapter does before training is nothing
    model.save_pretrained(folder / "models/adapter")
    return folder


def done(home: Path, steps: list[tuple[str, str, str]], *command: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "SUR_WORK": str(home.parent / "work"), "MPLBACKEND": "agg"}
    words = command or (sys.executable, "-c", RUNNER)
    return subprocess.run(words, cwd=home, env=env, input=json.dumps(steps), capture_output=True, text=True, timeout=300)


def runs(page: Path) -> list[tuple[str, str, str]]:
    return [(f"{page.name}, line {line}", tag, code) for tag, code, line in blocks(page) if tag in ("python", "bash")]


@pytest.mark.parametrize("page", [page for page in [*PAGES, README] if runs(page)], ids=lambda page: page.name)
def test_what_a_page_runs_runs_in_its_order(page, home):
    said = done(home, runs(page))
    assert said.returncode == 0, said.stderr[-3000:]


def test_the_notebook_of_the_quick_start_is_one_and_runs(home):
    book = json.loads((ROOT / "docs/quickstart.ipynb").read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5) and set(book) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", i) for i in ids)
    common = {"cell_type", "id", "metadata", "source"}
    for cell in book["cells"]:
        more = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert set(cell) == common | more and all(cell.get(key) in ([], None) for key in more)
    steps = [(cell["id"], "python", "".join(cell["source"])) for cell in book["cells"] if cell["cell_type"] == "code"]
    said = done(home, steps)
    assert said.returncode == 0 and len(steps) > 3, said.stderr[-3000:]


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.name)
def test_every_block_says_what_it_is(page):
    tags = {tag for tag, _, _ in blocks(page)}
    assert tags <= TAGS | ({"mermaid"} if page == README else set())


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.name)
def test_commands_that_are_not_run_here_are_commands_that_there_are(page):
    """Those of blocks, indented or fenced, and those that stand in a sentence."""
    known = "(?:python -m|dvc|pip|pytest|sed) "
    aside = prose(page) if page != README else prose(page).replace(prose(page).split("## The tree")[1].split("\n## ")[0], "")
    told = [code for tag, code, _ in blocks(page) if tag == "bash long"]
    told += re.findall(rf"^    ({known}.*)$", aside, re.M) + re.findall(rf"`({known}[^`]*)`", " ".join(aside.split()))
    assert told or page.name in ("index.md", "method.md")
    for code in told:
        for words in commands(re.sub(r"\b[A-Z]+(\|[A-Z]+)+", "ONE", code)):  # ID|URL|USER: one of them
            check(words)


def check(words: list[str]) -> None:
    """AssertionError for a command that nobody could run."""
    program, *rest = words
    if program == "python" and rest[0] == "-m":
        module(rest[1:])
    elif program == "dvc":
        dvc(rest)
    elif program == "torchrun":
        module(launched(get_args_parser().parse_args(rest)))
    elif program == "accelerate":
        assert rest[0] == "launch"
        module(launched(launch_command_parser().parse_args(rest[1:])))
    elif program == "ray":
        ray(rest)
    elif program == "pip":
        assert rest[0] == "install"
        assert all((ROOT / name).exists() for flag, name in zip(rest, rest[1:], strict=False) if flag == "-r"), words
    elif program == "pytest":
        assert all((ROOT / name).exists() for name in rest if not name.startswith("-")), words
    else:
        assert program in TOOLS, f"{program} is no command of ours"
    for word in (
        w for w in rest if re.match(r"(presets|prompts|stages|sur_adapter|tests|experiments|miniature|docs|models/miniature)/", w)
    ):
        assert list(ROOT.glob(word.rstrip("/"))), f"{word} is not there"


def ray(words: list[str]) -> None:
    """Ray's own help tells of it, asked in another process: who imports Ray settles its way with tokens."""
    if find_spec("ray"):
        told = helped("ray.scripts.scripts", words[0])
        assert told and all(word.split("=")[0] in told for word in words[1:]), words


def launched(given) -> list[str]:
    assert given.module, "the stage is a module"
    return [given.training_script, *given.training_script_args]


def module(words: list[str]) -> None:
    name, *rest = words
    assert find_spec(name), f"there is no module {name}"
    if name == "stages":
        verb, *paths = rest
        assert verb in VERBS + COMMANDS
        if verb in VERBS:
            signature(getattr(__import__(f"stages.{verb}", fromlist=[verb]), verb)).bind_partial(*paths)
            body = DVC[verb]
            head = body.get("do", body)["cmd"].split()[4:]
            assert len(paths) >= 2 and all(p.split("/")[0] == h.split("/")[0] for p, h in zip(paths, head, strict=False) if "$" not in h)
        else:
            assert len(paths) <= 1  # none where it is spoken of
    elif name == "sur_adapter":
        told = helped(name, *rest[:1])
        assert told and all(word in told for word in rest if word.startswith("--")), words
    elif name.startswith(("experiments", "miniature")) and rest:
        source = Path(find_spec(name + ".__main__" if find_spec(name).submodule_search_locations else name).origin).read_text()
        assert rest[0] in source, f"{name} knows no {rest[0]}"


def dvc(words: list[str]) -> None:
    """DVC's own parser takes it, and what it names is there."""
    try:
        given = parse_args(words)
    except SystemExit as error:
        raise AssertionError(f"dvc {' '.join(words)} is no command of DVC") from error
    for change in getattr(given, "set_param", None) or []:
        assert is_key(change.split("=")[0].lstrip("+~")), change
    if words[0] in ("repro", "push", "pull"):
        assert all(t in stages() or (ROOT / t).exists() or t.startswith(("data/", "models/", "reports/")) for t in given.targets), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists() and ROOT in file.parents, f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_map_and_the_map_from_the_readme():
    linked = set(re.findall(r"\]\(([\w-]+\.(?:md|ipynb))\)", prose(ROOT / "docs/index.md")))
    assert linked == {p.name for p in (ROOT / "docs").iterdir()} - {"index.md"}
    assert "(docs/index.md)" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_and_figure_that_is_named_is_one(page):
    told = {"semantic", "soft", "clip_score", "quality", "diversity", "counts", "agreement", "embedding", "strength"}
    for word in re.findall(r"`([a-z_]+(?:\.[\w<>-]+)+)(?:[:=][^`]*)?`", prose(page)):
        head = word.split(".")[0]
        if word.endswith((".py", ".json", ".yaml", ".md", ".csv", ".parquet", ".txt", ".lock")):
            continue
        if head in PARAMS:
            assert is_key(word), f"{page.name}: params.yaml takes no {word}"
        elif head in told:
            assert metric(word), f"{page.name}: metrics.json has no {word}"


@pytest.mark.parametrize(
    "folder, page", [("sources", "surd"), ("scores", "surd"), ("judges", "evaluate"), ("measures", "evaluate"), ("presets", "train")]
)
def test_every_file_that_can_be_named_in_params_is_told_of(folder, page):
    place = ROOT / folder if folder == "presets" else ROOT / "sur_adapter" / folder
    names = {p.name if folder == "presets" else p.stem for p in place.glob("*.*")} - {"__init__"}
    told = set(re.findall(r"`(?:presets/)?([\w.-]+)`", prose(ROOT / f"docs/{page}.md")))
    assert names - told == set()


def test_the_page_on_the_report_goes_through_its_sections():
    source = (ROOT / "sur_adapter/reporting/report.py").read_text(encoding="utf-8")
    titles = set(re.findall(r'^        "([A-Z][^"]+)": ', source, re.M)) | {title for title, _ in HEADINGS.values()}
    assert len(titles) >= 12 and titles <= set(re.findall(r"^## (.*)$", prose(ROOT / "docs/report.md"), re.M))


def test_every_arm_is_told_of():
    assert {f"`{arm}`" for arm in ARMS} <= set(re.findall(r"^\| (`\w+`) \|", prose(ROOT / "docs/evaluate.md"), re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_piece_of_params_takes_its_keys(page):
    for code in (code for tag, code, _ in blocks(page) if tag == "yaml"):
        for key in leaves(YAML(typ="safe").load(code)):
            assert is_key(key), f"{page.name}: params.yaml takes no {key}"


@pytest.mark.parametrize("key", list(leaves(PARAMS)))
def test_every_key_of_params_is_told_of(key):
    assert is_key(key)
    assert any(f"`{key}`" in prose(page) or re.search(f"`{re.escape(key)}[:=]", prose(page)) for page in PAGES)


def quoted() -> list[str]:
    """The sentences in the first column of the page of troubles."""
    return re.findall(r"^\| `` (.+?) `` \|", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.M)


def test_every_sentence_that_the_page_of_troubles_quotes_is_said_by_the_code():
    said = set().union(*sentences().values())
    assert len(quoted()) > 50 and len(set(quoted())) == len(quoted())
    assert [text for text in quoted() if not any(text in sentence for sentence in said)] == []


@pytest.mark.parametrize("file", ERRORS)
def test_the_page_of_troubles_has_every_sentence_of_a_stage(file):
    wanted = sentences()[file] - NOT_OURS.get(file, set())
    assert [text for text in wanted if not any(part in text for part in quoted() if part.strip(HOLE + " :"))] == []


@pytest.mark.parametrize("words", [w for page in PAGES for tag, code, _ in blocks(page) if tag == "console" for w in commands(code)])
def test_the_command_line_does_what_the_docs_say(words, home):
    assert words[:2] == ["$", "sur-adapter"], "a line of the console begins with a dollar"
    _, _, name, *rest = words
    told = helped("sur_adapter", name)
    assert told is not None, f"there is no `sur-adapter {name}`"
    assert all(word in told for word in rest if word.startswith("-"))
    if name != "serve":  # which serves until it is stopped
        said = done(home, [], sys.executable, "-m", "sur_adapter", name, *rest)
        assert said.returncode == 0, said.stderr[-3000:]
