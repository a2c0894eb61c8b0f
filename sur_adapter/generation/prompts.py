"""Prompts to be judged by: one JSON object a line, `{"id", "category", "prompt", "complex_prompt"?, "include"?, "exclude"?, "atoms"?}`.

`prompt` is the plain sentence, `complex_prompt` the keyword prompt that asks for the same picture, `include` what must be seen
and `exclude` what must not (GenEval's form), `atoms` questions with their answers, for a judge that can be asked. A list of others
is known by what stands in it, and read as theirs (importers/).
"""

import json
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from sur_adapter.generation import prompt_formats as importers

REQUIRED = ("id", "category", "prompt")
SUFFIXES = ("jsonl", "json", "tsv", "txt")  # of lists in a folder that holds none of the first


def read_prompts(path: Path) -> list[dict]:
    """All prompts of a file, or of a folder's *.jsonl (else of its other lists) in name order. Raises ValueError, FileNotFoundError."""
    files = _files(path)
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"{path} holds no *.jsonl of prompts: name a folder such as prompts/miniature")
    prompts, seen = [], {}
    for file in files:
        for where, prompt in _rows(file):
            _check(prompt, where)
            if prompt["id"] in seen:
                raise ValueError(f"{where}: the id {prompt['id']!r} was already used in {seen[prompt['id']]}: give each prompt its own")
            seen[prompt["id"]] = where
            prompts.append(prompt)
    if not prompts:
        raise ValueError(f"{path} holds no prompt: write one JSON object a line, with {', '.join(REQUIRED)}")
    return prompts


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    own, *others = (sorted(path.glob(f"*.{suffix}")) for suffix in SUFFIXES)
    return own or sorted(sum(others, []))


def _rows(file: Path) -> list[tuple[str, dict]]:
    """(where it stands, the prompt) of every prompt of a file, whoever wrote it."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    known = [m.name for m in iter_modules(importers.__path__)]
    for name in known:
        importer = import_module(f"sur_adapter.generation.prompt_formats.{name}")
        if importer.recognises(file.name, text):
            return [(f"{file}, prompt {n}", row) for n, row in enumerate(importer.rows(file, text), 1)]
    if file.suffix != ".jsonl" and text.strip() and not text.lstrip().startswith("{"):
        raise ValueError(
            f"{file} is no list of prompts that is known here: give one JSON object a line, or a list of {', '.join(known)} "
            "under the name it was published with"
        )
    lines = [(f"{file}, line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [(where, _parse(line, where)) for where, line in lines]


def _parse(line: str, where: str) -> dict:
    try:
        return importers.parse(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno}): write one object a line") from error


def _check(prompt, where: str) -> None:
    if not isinstance(prompt, dict):
        raise ValueError(f"{where}: a {type(prompt).__name__} where an object with {', '.join(REQUIRED)} was expected")
    for key in REQUIRED:
        if not isinstance(prompt.get(key), str) or not prompt[key].strip():
            raise ValueError(f"{where}: {key!r} is missing or not a text: each prompt needs {', '.join(REQUIRED)}")
    if any("\ud800" <= c <= "\udfff" for c in json.dumps(prompt, ensure_ascii=False)):
        raise ValueError(f"{where}: half a character (a lone surrogate such as \\ud800), which no file can hold: remove it")
    if any(c in prompt["id"] for c in "./\\\0") or not prompt["id"].isprintable():  # pictures are filed under it
        raise ValueError(f"{where}: the id {prompt['id']!r} cannot name a file: use letters, digits and hyphens")
