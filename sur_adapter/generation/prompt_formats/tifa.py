"""TIFA v1.0: text inputs, [{"id", "caption"}, …], or questions, [{"id", "caption", "question", "choices", "answer", …}, …].

Hu et al., arXiv 2303.11897; Apache 2.0. TIFA's own ids are kept. The category of a prompt is the data set that TIFA took it from, which
is the beginning of its id: coco, drawbench, partiprompt, paintskill. Questions become atoms in their order; `activity` is our skill
`action`, `counting` our `count`; kinds of things (object, animal/human, food, …) are our `object`; other kinds keep their names.
"""

import json
from pathlib import Path

from sur_adapter.generation.prompt_formats import parse_json

SKILLS = {"activity": "action", "counting": "count", "animal/human": "object", "animal": "object", "human": "object", "food": "object"}


def matches(file_name: str, text: str) -> bool:
    return text.lstrip().startswith("[") and '"caption"' in text[:2000] and '"id"' in text[:2000]


def read_rows(file: Path, text: str) -> list[dict]:
    """Returns rows with id, category, prompt, and atoms where there are questions."""
    try:
        entries = parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not JSON ({error.msg} in line {error.lineno}): use TIFA's file as published") from error
    rows: dict[str, dict] = {}
    for number, entry in enumerate(entries, 1):
        try:
            key, prompt = entry["id"], entry["caption"]
            row = rows.setdefault(key, {"id": key, "category": key.partition("_")[0], "prompt": prompt})
            if "question" in entry:
                row.setdefault("atoms", []).append(_atom(entry))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}, entry {number}: not an entry of TIFA ({error!r}): expected id and caption, or a question with them"
            ) from error
        if row["prompt"] != prompt:
            raise ValueError(f"{file}, entry {number}: {key!r} has another caption than before: give each prompt an id of its own")
    return list(rows.values())


def _atom(entry: dict) -> dict:
    kind = entry.get("element_type", "object")
    return {"skill": SKILLS.get(kind, kind), "q": entry["question"], "a": entry["answer"], "choices": entry["choices"]}
