"""PartiPrompts: a table of Prompt, Category, Challenge, Note, tabs between them. Yu et al., arXiv 2206.10789; Apache 2.0.

Quotation marks are part of the prompts, not of the table. A prompt's category is its challenge, in lower case with underscores:
`Quantity` is our `counting`; basic, complex, imagination, fine_grained_detail, … keep their names. There are no questions nor
answers: pictures are compared by CLIP score alone.
"""

import csv
import re
from io import StringIO
from pathlib import Path

from sur_adapter.generation.prompt_formats import named

COLUMNS = ("Prompt", "Category", "Challenge")


def recognises(name: str, text: str) -> bool:
    return set(COLUMNS) <= set(text.partition("\n")[0].strip().split("\t"))


def rows(file: Path, text: str) -> list[dict]:
    """id, category, prompt. Raises ValueError that names the line."""
    found = []
    try:
        for number, row in enumerate(csv.DictReader(StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE), 2):
            prompt, challenge = (row["Prompt"] or "").strip(), (row["Challenge"] or "").strip()
            if not prompt or not challenge:
                raise ValueError(f"{file}, line {number}: no prompt or no challenge: take PartiPrompts.tsv as published")
            name = re.sub(r"\W+", "_", challenge.lower())
            found.append({"category": "counting" if name == "quantity" else name, "prompt": prompt})
    except csv.Error as error:
        raise ValueError(f"{file}: not a table with tabs ({error}): take PartiPrompts.tsv as published") from error
    return named("parti", found)
