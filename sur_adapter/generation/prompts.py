"""Reads evaluation prompts: one JSON object per line,
`{"id", "category", "prompt", "complex_prompt"?, "include"?, "exclude"?, "atoms"?, "template"?}`.

`prompt` is the plain sentence, `complex_prompt` the keyword prompt for the same image. `include` lists what the image must show and
`exclude` what it must not (GenEval's form); `atoms` are questions with answers, for a judge that answers questions. `template`
is a name that prompts of the same build share. Published benchmarks are recognised by their content and read as they are (prompt_formats/).

The files of a folder are the main set, those of each of its sub-folders are a set of their own: it is drawn by every arm and measured
apart, so that the numbers of the main set do not depend on it. A category belongs to one set.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from sur_adapter import registry
from sur_adapter.generation.prompt_formats import parse_json

REQUIRED = ("id", "category", "prompt")
SUFFIXES = ("json", "tsv", "txt")  # of benchmarks, in a folder without *.jsonl
FORMATS = "sur_adapter.generation.prompt_formats"
MAIN = "main"  # the name of the main set


@dataclass(frozen=True)
class PromptSets:
    """Section `prompt_sets` of params.yaml: which prompts choose settings, and which only measure.

    development: every choice is made on these. test: for the figures of a release. Both are files or folders, null if there are none.
    sealed: SHA-256 of files that are not in the repository.
    """

    development: str | None = None
    test: str | None = None
    sealed: tuple[str, ...] = ()

    def __post_init__(self):
        if wrong := [digest for digest in self.sealed if not re.fullmatch("[0-9a-f]{64}", digest)]:
            raise ValueError(f"sealed has {wrong[0]!r}: give the SHA-256 of a file, 64 digits in lower case (`sha256sum FILE`)")

    def role(self, prompts: str | Path) -> str:
        """Returns "development" or "test" for the prompts of one of the two, else ""."""
        paths = {name: Path(path) for name, path in (("development", self.development), ("test", self.test)) if path}
        return next((name for name, path in paths.items() if path == Path(prompts)), "")


def read_prompts(path: Path) -> list[dict]:
    """Reads the main set: all prompts of a file, or of a folder's *.jsonl (without any, its benchmarks) in order of their names.

    Raises FileNotFoundError if there is no list, ValueError for an invalid one.
    """
    files = _files(path)
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"{path} holds no *.jsonl of prompts: name a folder such as prompts/miniature")
    return _read_files(path, files, {})


def read_prompt_sets(path: Path) -> dict[str, list[dict]]:
    """Reads the main set, and a set for each sub-folder with *.jsonl. Returns set -> its prompts: MAIN first, the others by name.

    Raises FileNotFoundError if there is no main set, ValueError for an invalid list, for an id that two prompts have, and for a category
    that two sets have.
    """
    sets = {MAIN: read_prompts(path)}
    first_use = {row["id"]: f"the main set of {path}" for row in sets[MAIN]}
    for folder in sorted(folder for folder in path.glob("*") if folder.is_dir() and any(folder.glob("*.jsonl"))):
        if folder.name == MAIN:
            raise ValueError(f"{folder} is a set of prompts named {MAIN!r}, which is the name of the files above it: rename the folder")
        sets[folder.name] = _read_files(folder, sorted(folder.glob("*.jsonl")), first_use)
    owner: dict[str, str] = {}
    for name, rows in sets.items():
        for category in dict.fromkeys(row["category"] for row in rows):
            if category in owner:
                both = f"the sets {owner[category]!r} and {name!r}"
                raise ValueError(f"{path} has the category {category!r} in {both}: give each set categories of its own")
            owner[category] = name
    return sets


def _read_files(path: Path, files: list[Path], first_use: dict[str, str]) -> list[dict]:
    """Reads the prompts of files of `path`. first_use: id -> where it was used, extended in place."""
    prompts = []
    for file in files:
        for location, prompt in _read_file(file):
            _check(prompt, location)
            name = prompt["id"]
            if name in first_use:
                raise ValueError(f"{location}: the id {name!r} was already used in {first_use[name]}: give each prompt an id of its own")
            first_use[name] = location
            prompts.append(prompt)
    if not prompts:
        raise ValueError(f"{path} holds no prompt: write one JSON object per line, with {', '.join(REQUIRED)}")
    return prompts


def first_of_each_set(path: Path, count: int) -> dict[str, list[dict]]:
    """Reads the first `count` prompts of each category of all sets. Returns set -> its prompts, in the order of `read_prompt_sets`."""
    return {name: first_per_category(rows, count) for name, rows in read_prompt_sets(path).items()}


def first_per_category(prompts: list[dict], count: int) -> list[dict]:
    """Selects the first `count` prompts of each category, in their order."""
    counts: dict[str, int] = {}
    selected = []
    for prompt in prompts:
        counts[prompt["category"]] = counts.get(prompt["category"], 0) + 1
        if counts[prompt["category"]] <= count:
            selected.append(prompt)
    return selected


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(path.glob("*.jsonl")) or sorted(file for suffix in SUFFIXES for file in path.glob(f"*.{suffix}"))


def _read_file(file: Path) -> list[tuple[str, dict]]:
    """Returns (location for errors, prompt) of every prompt of a file, in our format or in that of a benchmark."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    for name in registry.names(FORMATS):
        prompt_format = registry.load(FORMATS, name)
        if prompt_format.matches(file.name, text):
            return [(f"{file}, prompt {n}", row) for n, row in enumerate(prompt_format.read_rows(file, text), 1)]
    if file.suffix != ".jsonl" and text.strip() and not text.lstrip().startswith("{"):
        raise ValueError(
            f"{file} is no known list of prompts: give one JSON object per line, or a list of {', '.join(registry.names(FORMATS))} "
            "under its published name"
        )
    lines = [(f"{file}, line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [(location, _parse(line, location)) for location, line in lines]


def _parse(line: str, location: str) -> dict:
    try:
        return parse_json(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{location}: not JSON ({error.msg} at column {error.colno}): write one object per line") from error


def _check(prompt, location: str) -> None:
    if not isinstance(prompt, dict):
        kind = type(prompt).__name__
        raise ValueError(f"{location}: a {kind} instead of an object with {', '.join(REQUIRED)}: write one object per line")
    for key in REQUIRED:
        if not isinstance(prompt.get(key), str) or not prompt[key].strip():
            raise ValueError(f"{location}: {key!r} is missing or not a text: each prompt needs {', '.join(REQUIRED)}")
    if not isinstance(prompt.get("template"), str | None):
        raise ValueError(f"{location}: 'template' is not a text: give a name that prompts of the same build share, or leave it out")
    if any("\ud800" <= c <= "\udfff" for c in json.dumps(prompt, ensure_ascii=False)):
        raise ValueError(f"{location}: half a character (a lone surrogate such as \\ud800), which no file can hold: remove it")
    if any(c in prompt["id"] for c in "./\\\0") or not prompt["id"].isprintable():  # images are named after it
        raise ValueError(f"{location}: the id {prompt['id']!r} cannot name a file: use letters, digits and hyphens")
