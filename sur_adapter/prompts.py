"""Prompts to be judged by: one JSON object a line, `{"id", "category", "prompt", "complex_prompt"?, "include"?, "atoms"?}`.

`prompt` is the plain sentence, `complex_prompt` the keyword prompt that asks for the same picture, `include` what must be
seen (GenEval's form), `atoms` questions with their answers, for a judge that can be asked.
"""

import json
from pathlib import Path

REQUIRED = ("id", "category", "prompt")


def read_prompts(path: Path) -> list[dict]:
    """All prompts of a file, or of a folder's *.jsonl in name order, as they stand. Raises ValueError, FileNotFoundError."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise FileNotFoundError(f"{path} holds no *.jsonl of prompts: name a folder such as prompts/miniature")
    prompts, seen = [], {}
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
            if line.strip():
                where = f"{file}, line {number}"
                prompt = _parse(line, where)
                if prompt["id"] in seen:
                    raise ValueError(f"{where}: the id {prompt['id']!r} was already used in {seen[prompt['id']]}: give each prompt its own")
                seen[prompt["id"]] = where
                prompts.append(prompt)
    if not prompts:
        raise ValueError(f"{path} holds no prompt: write one JSON object a line, with {', '.join(REQUIRED)}")
    return prompts


def _parse(line: str, where: str) -> dict:
    try:
        prompt = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno}): write one object a line") from error
    if not isinstance(prompt, dict):
        raise ValueError(f"{where}: a {type(prompt).__name__} where an object with {', '.join(REQUIRED)} was expected")
    for key in REQUIRED:
        if not isinstance(prompt.get(key), str) or not prompt[key].strip():
            raise ValueError(f"{where}: {key!r} is missing or not a text: each prompt needs {', '.join(REQUIRED)}")
    if "\\ud" in line.lower() and _lone_surrogate(prompt):
        raise ValueError(f"{where}: half a character (a lone surrogate such as \\ud800), which no file can hold: remove it")
    if any(c in prompt["id"] for c in "./\\\0") or not prompt["id"].isprintable():  # pictures are filed under it
        raise ValueError(f"{where}: the id {prompt['id']!r} cannot name a file: use letters, digits and hyphens")
    return prompt


def _lone_surrogate(prompt: dict) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in json.dumps(prompt, ensure_ascii=False))
