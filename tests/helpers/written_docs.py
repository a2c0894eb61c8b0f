"""What a page says: its code blocks, links, keys and sentences; and what of it the project really has."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from inspect import Parameter, signature
from pathlib import Path

from ruamel.yaml import YAML

from helpers.repository import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
HOLE = "…"  # what a sentence fills in


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """(tag, code, line) of every fenced block."""
    found, tag, lines = [], None, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif tag is None:
            tag, lines, first = line[3:].strip(), [], number
        else:
            found.append((tag, "\n".join(lines) + "\n", first))
            tag = None
    assert tag is None, f"{page.name}: the block of line {first} does not end"
    return found


def prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The names of its headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(code: str) -> Iterator[list[str]]:
    """The words of each command of a shell block; settings before it (A=b command) go."""
    for line in code.replace("\\\n", " ").splitlines():
        words, some = shlex.shlex(line, posix=True, punctuation_chars=True), []
        words.whitespace_split = True
        for word in [*words, ";"]:
            if word in (";", "&&", "|", ">"):
                yield from [some] if some else []
                some = []
            elif some or not re.fullmatch(r"[A-Z_]+=.*", word):
                some.append(word)


@cache
def sentences() -> dict[str, set[str]]:
    """Every sentence that a file of the project raises, with `…` for what is filled in: file -> sentences."""
    found: dict[str, set[str]] = {}
    for path in [*(ROOT / "stages").glob("*.py"), *(ROOT / "sur_adapter").rglob("*.py")]:
        raised = [node.exc for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise)]
        kinds = ("ValueError", "FileNotFoundError")
        told = {_told(e.args[0]) for e in raised if isinstance(e, ast.Call) and getattr(e.func, "id", "") in kinds and e.args}
        found[path.relative_to(ROOT).as_posix()] = {text for text in told if text.strip(HOLE + " ")}
    return found


def _told(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return re.sub(f"{HOLE}+", HOLE, "".join(map(_told, node.values))) if isinstance(node, ast.JoinedStr) else HOLE


@cache
def keys(section: str) -> set[str]:
    """What a section of params.yaml, or a part of one such as cache.llm, may hold: the arguments of the function that takes it."""
    head, _, name = section.partition(".")
    if section in ("sources", "scores", "cache"):
        folder = {"cache": "features"}.get(head, head)
        return {p.stem for p in (ROOT / "sur_adapter" / folder).glob("*.py")} - {"__init__"}
    if section == "models":
        return set(PARAMS["models"])
    if section == "filter":
        scores = {"clip_simple", "clip_complex", "aesthetic"} | keys("scores")
        return set(_takes("stages.filter", "decide")) | scores
    takes = {
        "caption": ("stages.caption", "write"),
        "adapter": ("stages.train", "network"),
        "loss": ("stages.train", "objective"),
        "train": ("stages.train", "options_of_training"),
        "generate": ("sur_adapter.generation.sampling", "draw"),
        "sweep": ("stages.sweep", "numbers"),
        "evaluate": ("stages.evaluate", "options"),
        "executor": ("sur_adapter.executors.executor", "Executor"),
        "sources": (f"sur_adapter.data.sources.{name}", "rows"),
        "scores": (f"sur_adapter.data.scores.{name}", "score"),
        "cache": (f"sur_adapter.features.extractors.{name}", "write"),
        "sources.folder.interrogate": ("sur_adapter.data.prompts.interrogator", "Interrogator"),
    }
    found = set(_takes(*takes.get(section, takes[head])))
    return found | {"prompts", "per_category"} if section == "generate" else found


def _takes(module: str, name: str) -> Iterator[str]:
    arguments = signature(getattr(importlib.import_module(module), name)).parameters.values()
    return (a.name for a in arguments if a.kind is Parameter.KEYWORD_ONLY)


def is_key(dotted: str) -> bool:
    """Whether params.yaml takes such a key, whether or not it has it now."""
    section, _, last = dotted.rpartition(".")
    if dotted.startswith(("evaluate.judge.", "evaluate.measures.")):
        kind, name, *more = dotted.split(".")[1:]
        kind = {"judge": "judges"}.get(kind, kind)
        function = {"judges": "verdicts", "measures": "measure"}[kind]
        return (ROOT / f"sur_adapter/{kind}/{name}.py").exists() and set(more) <= set(_takes(f"sur_adapter.{kind}.{name}", function))
    try:
        return last in keys(section)
    except (ImportError, AttributeError, KeyError):
        return False


def leaves(tree: dict, before: str = "") -> Iterator[str]:
    """Every key of nested settings, dotted; lists and empty settings are leaves."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def stages() -> set[str]:
    """What `dvc repro` can be told: stages, their lanes, and groups of lanes."""
    lanes = {"crawl": "sources", "caption": "sources", "score": "scores"}
    found = set(DVC)
    for name, body in DVC.items():
        found |= {f"{name}@{lane}" for lane in (PARAMS[lanes[name]] if name in lanes else body.get("foreach", {}))}
    return found


@cache
def helped(*words: str) -> str | None:
    """What a command of ours says of itself, or None where there is no such command."""
    done = subprocess.run([sys.executable, "-m", *words, "--help"], cwd=ROOT, capture_output=True, text=True)
    return None if done.returncode else done.stdout


def metric(dotted: str) -> bool:
    """Whether metrics.json has such a figure; <arm>, <category> and <measure> stand for one of them."""
    tree = json.loads((ROOT / "reports/metrics.json").read_text())
    for name in dotted.split("."):
        name = {"<arm>": "adapter", "<category>": "counting", "<measure>": "sharpness", "<strength>": "1"}.get(name, name)
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True
