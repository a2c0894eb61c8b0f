"""How often the answers of the language model to the text-only sentences are right, where a sentence came with the right answer."""

from pathlib import Path

import pandas as pd

from sur_adapter.evaluation.summary import rate
from sur_adapter.io.shards import read_table

KIND_PARTS = 2  # of a kind such as reasoning/colour/near that are kept


def measure_teacher(sentences: Path | None, answers: Path | None) -> tuple[dict, dict]:
    """Measures exact answers by kind of sentence. Returns ({"teacher": kind and "overall" -> value, low, high, sentences}, notes).

    sentences: the table of the stage sentences, with `expected`; answers: answers.parquet of the cached features. An answer is exact if it
    has the parts of the expected one, in any order; a sentence without a usable answer counts as wrong.
    """
    if sentences is None or answers is None:
        return {}, {}
    table = read_table(sentences)
    table = table[table.keep & table.expected.notna()][["id", "kind", "expected"]]
    table = table.merge(read_table(answers, ["id", "answer"]), on="id")
    if table.empty:
        return {}, {"teacher": "no sentence came with the right answer"}
    exact = pd.Series([_parts(a) == _parts(e) for a, e in zip(table.answer, table.expected, strict=True)], table.index, float)
    kinds = ["/".join(kind.split("/")[:KIND_PARTS]) or "unknown" for kind in table.kind]
    groups = {"overall": exact} | dict(tuple(exact.groupby(kinds)))
    return {"teacher": {kind: rate(values) | {"sentences": len(values)} for kind, values in groups.items()}}, {}


def _parts(prompt: object) -> list[str]:
    return sorted(part.strip() for part in prompt.split(",")) if isinstance(prompt, str) else []  # a missing answer is None or NaN
