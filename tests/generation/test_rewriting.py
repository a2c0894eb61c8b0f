"""The arm `rewrite`: answers of the language model are the prompts; an unusable one falls back to the sentence and is counted."""

from typing import NamedTuple

import pytest
from torch import nn

from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.rewriting import rewrite_prompts, weights_of


class Answer(NamedTuple):
    answer: str | None
    min_logprob: float | None
    reason: str | None


class Dictionary:
    """Rewrites by a table."""

    def __init__(self, answers: dict[str, Answer]):
        self.answers = answers

    def rewrite(self, sentences: list[str]) -> list[Answer]:
        return [self.answers[sentence] for sentence in sentences]


ANSWERS = {
    "a circle like grass": Answer(" 1 green circle ", -0.123456, None),
    "cut": Answer("1 gre", -2.0, "no end"),
    "silent": Answer("  ", None, None),
}


def test_an_answer_without_a_reason_is_used_and_any_other_falls_back_to_the_sentence():
    table, seconds = rewrite_prompts(list(ANSWERS), Dictionary(ANSWERS))
    assert table.answer.tolist() == ["1 green circle", None, None] and table.reason.tolist() == [None, "no end", "empty"]
    assert table.min_logprob.tolist() == [-0.1235, -2.0, None] and seconds >= 0
    rows = [{"prompt": prompt, **answer} for prompt, answer in zip(ANSWERS, table.to_dict("records"), strict=True)]
    assert [ARMS["rewrite"].text(row) for row in rows] == ["1 green circle", "cut", "silent"]


def test_weights_are_counted_as_they_are_loaded():
    model = nn.Linear(3, 2)
    assert weights_of(model) == {"parameters": 8, "bytes": 32} and weights_of(model.half())["bytes"] == pytest.approx(16)
