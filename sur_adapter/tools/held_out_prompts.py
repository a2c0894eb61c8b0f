"""Pairs that nothing was trained on, as a list of prompts to be judged by: a suite of its own beside those with questions.

One object a line: {"id" of the picture, "category": "held_out", "prompt": the plain sentence, "complex_prompt": the keyword prompt as
models read it}. What such a picture must show is told by nobody: arms are compared by CLIP score, and `evaluate.judge` is null.
"""

import json
from pathlib import Path

import pandas as pd

from sur_adapter.data.prompts.cleaning import words
from sur_adapter.io.atomic import atomic_write

CATEGORY = "held_out"


def suite(pairs: pd.DataFrame, folder: Path) -> int:
    """How many prompts were written to held_out.jsonl in `folder`: the kept pairs of the test split, by id.

    pairs: id, simple_prompt, complex_prompt, clean_prompt where there is one, dropped, split. Raises ValueError where the file is there
    already, or where no pair is held out.
    """
    file = folder / f"{CATEGORY}.jsonl"
    if file.exists():
        raise ValueError(f"{file} is there already: remove it first, or name another folder, so that nothing of yours is written over")
    held = pairs[pairs.dropped.isna() & (pairs["split"] == "test")].sort_values("id")
    if held.empty:
        raise ValueError(f"none of {len(pairs)} pairs is kept in the test split: raise filter.test in params.yaml and run `dvc repro`")
    rows = [
        {"id": row["id"], "category": CATEGORY, "prompt": row["simple_prompt"], "complex_prompt": words(row)}
        for row in held.to_dict("records")
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="\n")
    return len(rows)
