"""Reads a page of the docs: code blocks, links, keys and error messages; and checks which of them exist in the project."""

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import get_args, get_type_hints

from ruamel.yaml import YAML

from helpers.repository import ROOT
from sur_adapter.adapter.config import AdapterParams
from sur_adapter.data.filtering.filtering import FilterConfig
from sur_adapter.data.sentence_selection.selection import SentencesConfig
from sur_adapter.evaluation.evaluator import EvaluateConfig
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.generation.sampling import GenerateConfig, SweepConfig
from sur_adapter.models.captioner import CaptionConfig
from sur_adapter.models.config import ModelsConfig
from sur_adapter.registry import load, names
from sur_adapter.training.config import LossConfig, TrainConfig

PAGES = sorted((ROOT / "docs").glob("*.md"))
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
from sur_adapter.generation.prompts import PromptSets  # noqa: E402

DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
PLACEHOLDER = "…"  # stands for the values that an error message fills in
SECTIONS = {
    "caption": CaptionConfig,
    "sentences": SentencesConfig,
    "models": ModelsConfig,
    "adapter": AdapterParams,
    "loss": LossConfig,
    "train": TrainConfig,
    "prompt_sets": PromptSets,
    "generate": GenerateConfig,
    "sweep": SweepConfig,
    "evaluate": EvaluateConfig,
    "executor": ExecutorConfig,
}
PLUG_INS = {  # key of params.yaml -> the package whose modules it names; each has a Config
    "sources": "sur_adapter.data.sources",
    "scores": "sur_adapter.data.scores",
    "sentences.sources": "sur_adapter.data.sentences",
    "cache": "sur_adapter.features.extractors",
    "evaluate.judge": "sur_adapter.evaluation.judges",
    "evaluate.metrics": "sur_adapter.evaluation.metrics",
}
SCORE_COLUMNS = {"clip_simple", "clip_complex", "aesthetic"}  # scores of scores.clip


def blocks(page) -> list[tuple[str, str, int]]:
    """(tag, code, line) of every fenced block."""
    result, tag, lines = [], None, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif tag is None:
            tag, lines, first = line[3:].strip(), [], number
        else:
            result.append((tag, "\n".join(lines) + "\n", first))
            tag = None
    assert tag is None, f"{page.name}: the block of line {first} does not end"
    return result


def prose(page) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(code: str) -> Iterator[list[str]]:
    """The arguments of each command of a shell block, without leading variables (A=b command)."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer, command = shlex.shlex(line, posix=True, punctuation_chars=True), []
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if word in (";", "&&", "|", ">"):
                yield from [command] if command else []
                command = []
            elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
                command.append(word)


@cache
def sentences(with_ranges: bool = True) -> dict[str, set[str]]:
    """file -> the error messages that it raises, with a placeholder for each value that is filled in.

    with_ranges: count the messages of `__post_init__`, which say themselves what to give, too.
    """
    result: dict[str, set[str]] = {}
    for path in [*(ROOT / "stages").glob("*.py"), *(ROOT / "sur_adapter").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        ranges = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__post_init__"]
        skipped = set() if with_ranges else {id(child) for node in ranges for child in ast.walk(node)}
        raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and id(node) not in skipped]
        kinds = ("ValueError", "FileNotFoundError")
        texts = {_text(e.args[0]) for e in raised if isinstance(e, ast.Call) and getattr(e.func, "id", "") in kinds and e.args}
        result[path.relative_to(ROOT).as_posix()] = {text for text in texts if text.strip(PLACEHOLDER + " ")}
    return result


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    parts = map(_text, node.values) if isinstance(node, ast.JoinedStr) else [PLACEHOLDER]
    return re.sub(f"{PLACEHOLDER}+", PLACEHOLDER, "".join(parts))


def is_key(dotted: str) -> bool:
    """Whether params.yaml accepts such a key, whether or not it has it now."""
    for prefix, package in PLUG_INS.items():
        if dotted.startswith(f"{prefix}."):
            plug_in, *rest = dotted.removeprefix(f"{prefix}.").split(".")
            return plug_in in names(package) and _has_field(load(package, plug_in).Config, rest)
    section, *rest = dotted.split(".")
    if section in PLUG_INS:
        return not rest
    if section == "filter":
        scores = SCORE_COLUMNS | set(names(PLUG_INS["scores"]))
        return rest[:1] != ["min_scores"] and (_has_field(FilterConfig, rest) or (len(rest) == 1 and rest[0] in scores))
    return section in SECTIONS and _has_field(SECTIONS[section], rest)


def _has_field(config: type, path: list[str]) -> bool:
    """Whether a dataclass has a field, or one of its fields holds a dataclass with it."""
    if not path:
        return True
    first, *rest = path
    if first not in {field.name for field in fields(config) if field.init}:
        return False
    hint = get_type_hints(config)[first]
    nested = [choice for choice in (hint, *get_args(hint)) if is_dataclass(choice)]
    return not rest or any(_has_field(choice, rest) for choice in nested)


def leaves(tree: dict, prefix: str = "") -> Iterator[str]:
    """Every key of nested settings, dotted; lists and empty settings are leaves."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def stages() -> set[str]:
    """Targets of `dvc repro`: stages, and the parts of a foreach."""
    parts = {"crawl": "sources", "caption": "sources"}
    result = set(DVC)
    for name, body in DVC.items():
        result |= {f"{name}@{part}" for part in (PARAMS[parts[name]] if name in parts else body.get("foreach", {}))}
    return result


@cache
def help_text(*arguments: str) -> str | None:
    """What `python -m … --help` prints, or None if there is no such command."""
    done = subprocess.run([sys.executable, "-m", *arguments, "--help"], cwd=ROOT, capture_output=True, text=True)
    return None if done.returncode else done.stdout


def is_metric(dotted: str) -> bool:
    """Whether metrics.json has such a figure; <arm>, <category> and so on stand for any of them."""
    trees = [json.loads((ROOT / "reports/metrics.json").read_text())]
    for name in dotted.split("."):
        trees = [value for tree in trees if isinstance(tree, dict) for key, value in tree.items() if key == name or name.startswith("<")]
    return bool(trees)
