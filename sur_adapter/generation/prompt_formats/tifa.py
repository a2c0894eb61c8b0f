"""TIFA v1.0: text inputs, [{"id", "caption"}, …], or its questions, [{"id", "caption", "question", "choices", "answer", …}, …].

Hu et al., arXiv 2303.11897; Apache 2.0. TIFA's own ids stay. A prompt's category is where TIFA took it from, which is the beginning of
its id: coco, drawbench, partiprompt, paintskill. Questions become atoms in their order; `activity` is our skill `action`, `counting`
our `count`, what is a thing (object, animal/human, food, …) our `object`; other kinds keep their names.
"""

import json
from pathlib import Path

from sur_adapter.generation.prompt_formats import parse

SKILLS = {"activity": "action", "counting": "count", "animal/human": "object", "animal": "object", "human": "object", "food": "object"}


def recognises(name: str, text: str) -> bool:
    return text.lstrip().startswith("[") and '"caption"' in text[:2000] and '"id"' in text[:2000]


def rows(file: Path, text: str) -> list[dict]:
    """id, category, prompt, atoms where there are questions. Raises ValueError that names the entry."""
    try:
        entries = parse(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not JSON ({error.msg} in line {error.lineno}): take TIFA's file as published") from error
    found: dict[str, dict] = {}
    for number, entry in enumerate(entries, 1):
        try:
            key, prompt = entry["id"], entry["caption"]
            row = found.setdefault(key, {"id": key, "category": key.partition("_")[0], "prompt": prompt})
            if "question" in entry:
                row.setdefault("atoms", []).append(_atom(entry))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}, entry {number}: not of TIFA ({error!r}): expected id and caption, or a question with them"
            ) from error
        if row["prompt"] != prompt:
            raise ValueError(f"{file}, entry {number}: {key!r} has another caption than before: each prompt needs an id of its own")
    return list(found.values())


def _atom(entry: dict) -> dict:
    kind = entry.get("element_type", "object")
    return {"skill": SKILLS.get(kind, kind), "q": entry["question"], "a": entry["answer"], "choices": entry["choices"]}
