"""GenEval's evaluation_metadata.jsonl: {"tag", "include", "exclude"?, "prompt"} a line. Ghosh et al., arXiv 2310.11513; MIT.

`colors` and `color_attr` are our `color`, `counting` is our `counting`; `single_object` and `two_object` keep their names. `position`
is left out: its `include` says where a thing must lie, which no judge here looks at, and to pass it without looking would flatter.
What a judge here makes of these prompts is not the published figure, which is of its own detector.
"""

import json
from pathlib import Path

from sur_adapter.generation.prompt_formats import named, parse

CATEGORIES = {
    "colors": "color",
    "color_attr": "color",
    "counting": "counting",
    "single_object": "single_object",
    "two_object": "two_object",
    "position": None,
}


def recognises(name: str, text: str) -> bool:
    try:
        first = parse(text.lstrip().partition("\n")[0])
    except json.JSONDecodeError:
        return False
    return isinstance(first, dict) and {"tag", "include", "prompt"} <= first.keys() and "id" not in first


def rows(file: Path, text: str) -> list[dict]:
    """id, category, prompt, include, exclude where there is one. Raises ValueError that names the line."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            found += _row(line, f"{file}, line {number}")
    return named("geneval", found)


def _row(line: str, where: str) -> list[dict]:
    try:
        row = parse(line)
        category = CATEGORIES[row["tag"]]
        kept = {"category": category, "prompt": row["prompt"].strip(), "include": list(row["include"])}
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{where}: not a line of GenEval ({error}): take evaluation_metadata.jsonl as published") from error
    exclude = {"exclude": row["exclude"]} if row.get("exclude") else {}
    return [kept | exclude] if category else []
