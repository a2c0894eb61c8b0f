"""Teachers of a chosen accuracy: files of the miniature's sentences with ready answers, of which a share is right.

A wrong answer is the right one of another sentence, drawn at random. It measures how well the adapter learns from a teacher that errs, and
is the one place where the known right answers are trained on.
"""

import json
from pathlib import Path
from random import Random

from miniature.sentences import sentences

FOLDER = Path("data/ablations/teachers")
ACCURACIES = (1.0, 0.9, 0.7, 0.5)


def teacher_file(accuracy: float) -> Path:
    return FOLDER / f"{accuracy}.jsonl"


def teacher_changes(accuracy: float) -> dict:
    """Returns the changes of params.yaml for a teacher; one sentence stays with the language model."""
    source = {"path": teacher_file(accuracy).as_posix()}
    return {"+sentences.sources.file": source, "sentences.sources.miniature.count": 1}


def teacher_rows(accuracy: float, count: int, seed: int = 0) -> list[dict]:
    """Returns `count` sentences with ready answers, each right with the probability `accuracy`."""
    random, rows = Random(f"teacher {seed}"), list(sentences(count, seed))
    answers = [row["expected"] for row in rows]
    wrong = [next(other for other in iter(lambda: random.choice(answers), None) if other != answer) for answer in answers]
    draws = [random.random() for _ in rows]
    given = [answer if draw < accuracy else other for answer, other, draw in zip(answers, wrong, draws, strict=True)]
    return [{key: row[key] for key in ("sentence", "kind", "expected")} | {"answer": a} for row, a in zip(rows, given, strict=True)]


def write_teachers(count: int) -> None:
    """Writes the file of every accuracy."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for accuracy in ACCURACIES:
        lines = [json.dumps(row) + "\n" for row in teacher_rows(accuracy, count)]
        teacher_file(accuracy).write_text("".join(lines), encoding="utf-8", newline="\n")
