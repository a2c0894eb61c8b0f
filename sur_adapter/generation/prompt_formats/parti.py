"""PartiPrompts: tab-separated columns Prompt, Category, Challenge, Note. Yu et al., arXiv 2206.10789; Apache 2.0.

Quotation marks belong to the prompts. The category of a prompt is its challenge, in lower case with underscores: `Quantity` is our
`counting`; basic, complex, imagination, fine_grained_detail, … keep their names. The list has no questions or answers, so images are
compared by CLIP score only.
"""

import csv
import re
from io import StringIO
from pathlib import Path

from sur_adapter.generation.prompt_formats import with_ids

COLUMNS = ("Prompt", "Category", "Challenge")


def matches(file_name: str, text: str) -> bool:
    return set(COLUMNS) <= set(text.partition("\n")[0].strip().split("\t"))


def read_rows(file: Path, text: str) -> list[dict]:
    """Returns rows with id, category and prompt."""
    rows = []
    try:
        for number, entry in enumerate(csv.DictReader(StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE), 2):
            prompt, challenge = (entry["Prompt"] or "").strip(), (entry["Challenge"] or "").strip()
            if not prompt or not challenge:
                raise ValueError(f"{file}, line {number}: no prompt or no challenge: use PartiPrompts.tsv as published")
            name = re.sub(r"\W+", "_", challenge.lower())
            rows.append({"category": "counting" if name == "quantity" else name, "prompt": prompt})
    except csv.Error as error:
        raise ValueError(f"{file}: not a tab-separated table ({error}): use PartiPrompts.tsv as published") from error
    return with_ids("parti", rows)
