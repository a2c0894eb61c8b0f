"""GenEval's evaluation_metadata.jsonl: {"tag", "include", "exclude"?, "prompt"} per line. Ghosh et al., arXiv 2310.11513; MIT.

`colors` and `color_attr` are our `color`, `counting` is our `counting`; `single_object` and `two_object` keep their names. `position` is
left out: its `include` says where an object must be, which no judge of this project checks, and to accept it unchecked would inflate the
score. Scores of these prompts are not comparable with published ones, which come from GenEval's own detector.
"""

import json
from pathlib import Path

from sur_adapter.generation.prompt_formats import parse_json, with_ids

CATEGORIES = {
    "colors": "color",
    "color_attr": "color",
    "counting": "counting",
    "single_object": "single_object",
    "two_object": "two_object",
    "position": None,
}


def matches(file_name: str, text: str) -> bool:
    try:
        first = parse_json(text.lstrip().partition("\n")[0])
    except json.JSONDecodeError:
        return False
    return isinstance(first, dict) and {"tag", "include", "prompt"} <= first.keys() and "id" not in first


def read_rows(file: Path, text: str) -> list[dict]:
    """Returns rows with id, category, prompt, include, and exclude where the list has it."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows += _parse_line(line, f"{file}, line {number}")
    return with_ids("geneval", rows)


def _parse_line(line: str, location: str) -> list[dict]:
    """Returns the row of a line as a list, which is empty for a category that is left out."""
    try:
        entry = parse_json(line)
        category = CATEGORIES[entry["tag"]]
        row = {"category": category, "prompt": entry["prompt"].strip(), "include": list(entry["include"])}
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{location}: not a line of GenEval ({error}): use evaluation_metadata.jsonl as published") from error
    exclude = {"exclude": entry["exclude"]} if entry.get("exclude") else {}
    return [row | exclude] if category else []
