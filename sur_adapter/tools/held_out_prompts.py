"""suite: writes the held-out test pairs as prompts to evaluate on, beside or instead of prompts with ground truth.

One JSON object per line: {"id": of the image, "category": "held_out", "prompt": the plain sentence, "complex_prompt": the cleaned keyword
prompt}. Of an image with several captions, the first kept one is the sentence. What such an image must show is unknown: set
`evaluate.judge` to null, and arms are compared by CLIP score.
"""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pandas as pd

from sur_adapter.config import Params
from sur_adapter.data.prompts.cleaning import effective_prompt
from sur_adapter.io.atomic import atomic_write
from sur_adapter.io.schema import image_ids
from sur_adapter.io.shards import read_table

CATEGORY = "held_out"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {CATEGORY}.jsonl")
    parser.add_argument("--pairs", type=Path, default=Path("data/pairs.parquet"), help="table that the filter wrote (%(default)s)")


def run(args: Namespace, params: Params) -> None:
    count = write_held_out_prompts(read_table(args.pairs), args.out)
    print(f"wrote {count} prompts to {args.out}/{CATEGORY}.jsonl: set generate.prompts to {args.out}, and evaluate.judge to null")


def write_held_out_prompts(pairs: pd.DataFrame, folder: Path) -> int:
    """Writes a prompt for each image of the kept pairs of the test split to held_out.jsonl in `folder`, sorted by id; returns how many.

    pairs: id, simple_prompt, complex_prompt, clean_prompt (optional), dropped, split. Raises ValueError if the file exists, or if
    there is no such pair.
    """
    file = folder / f"{CATEGORY}.jsonl"
    if file.exists():
        raise ValueError(f"{file} exists already: remove it, or name another folder; files are never overwritten")
    held_out = pairs[pairs.dropped.isna() & (pairs["split"] == "test")].sort_values("id")
    images = image_ids(held_out.id)
    held_out = held_out.assign(id=images)[~images.duplicated()]
    if held_out.empty:
        raise ValueError(f"none of {len(pairs)} pairs is kept in the test split: raise filter.test in params.yaml and run `dvc repro`")
    prompts = [
        {"id": row["id"], "category": CATEGORY, "prompt": row["simple_prompt"], "complex_prompt": effective_prompt(row)}
        for row in held_out.to_dict("records")
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in prompts), encoding="utf-8", newline="\n")
    return len(prompts)
