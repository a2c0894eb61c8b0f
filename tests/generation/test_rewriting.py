"""The arm `rewrite`: answers of the language model are the prompts; an unusable one falls back to the sentence and is counted."""

import json
from math import nan

import pandas as pd
import pytest
from helpers.repository import ROOT
from helpers.stages import run_stage
from torch import nn

from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.rewriting import count_parameters, rewrite_prompts
from sur_adapter.io.shards import read_tar
from sur_adapter.models.rewriter import Answer

MODELS = {"diffusion": str(ROOT / "models/miniature/stable-diffusion"), "llm": str(ROOT / "models/miniature/llama"), "resolution": 64}
GENERATE = {"per_category": 1, "seeds": 2, "num_inference_steps": 2, "guidance_scale": 3.0, "batch_size": 3}
CHOICES = ["1 green circle", "3 red stars"]
ANSWERS = {
    "a circle like grass": Answer("1 green circle", -0.1, -0.123456, None),
    "cut": Answer("1 gre", -1.0, -2.0, "unparsable"),
    "long": Answer("", nan, nan, "too_long"),
}


class Dictionary:
    """Rewrites by a table."""

    def rewrite(self, sentences: list[str]) -> list[Answer]:
        return [ANSWERS[sentence] for sentence in sentences]


def test_an_answer_without_a_reason_is_used_and_any_other_falls_back_to_the_sentence():
    table, seconds = rewrite_prompts(list(ANSWERS), Dictionary())
    assert table.answer.tolist() == ["1 green circle", None, None] and table.reason.tolist() == [None, "unparsable", "too_long"]
    assert table.min_logprob.tolist() == [-0.1235, -2.0, None] and seconds >= 0
    rows = [{"prompt": prompt, "rewritten": answer} for prompt, answer in zip(ANSWERS, table.answer, strict=True)]
    assert [ARMS["rewrite"].text(row) for row in rows] == ["1 green circle", "cut", "long"]


def test_parameters_are_counted():
    assert count_parameters(nn.Linear(3, 2)) == 8


@pytest.fixture
def drawn(tmp_path):
    """The arms baseline and rewrite of two sets of prompts, the answers one of CHOICES."""
    (tmp_path / "prompts/more").mkdir(parents=True)
    (tmp_path / "prompts/a.jsonl").write_text('{"id": "a-0", "category": "a", "prompt": "a green circle"}\n')
    (tmp_path / "prompts/more/b.jsonl").write_text('{"id": "b-0", "category": "b", "prompt": "three red stars"}\n')
    (tmp_path / "choices.txt").write_text("\n".join(CHOICES) + "\n")

    def draw(arm: str, choices: str | None = str(tmp_path / "choices.txt"), **sentences) -> dict[str, bytes]:
        sentences = {"choices": choices, "layers": [1]} | sentences
        sections = {"models": MODELS, "generate": GENERATE, "cache": {"sentences": sentences}, "executor": None}
        out = {"out": tmp_path, "timings": tmp_path / "timings"}
        run_stage("generate", sections, arms=arm, prompts=tmp_path / "prompts", **out)
        return {key: data for key, _, data in read_tar(tmp_path / arm)}

    draw.folder = tmp_path
    return draw


def test_the_arm_rewrite_draws_the_answers_of_the_language_model(drawn):
    images, folder = drawn("rewrite", keyword_prompt="{answer}, icon"), drawn.folder
    table = pd.read_parquet(folder / "rewrite/prompts.parquet")
    assert table.columns.tolist() == ["id", "category", "arm", "text", "answer", "min_logprob", "reason"]
    assert table.id.tolist() == ["a-0", "b-0"] and set(table.answer) <= set(CHOICES)
    assert (table.text == table.answer + ", icon").all()
    assert list(images) == ["a-0-0", "a-0-1", "b-0-0", "b-0-1"]
    assert json.loads((folder / "rewrite/llm.json").read_text())["parameters"] > 10_000
    assert drawn("rewrite", keyword_prompt="{answer}, icon") == images, "equal runs give equal bytes"


def test_an_answer_that_cannot_be_used_gives_the_images_of_the_baseline(drawn):
    images = drawn("rewrite", choices=None, max_new_tokens=1, stop=["no end"])
    table = pd.read_parquet(drawn.folder / "rewrite/prompts.parquet")
    assert table.answer.isna().all() and table.text.tolist() == ["a green circle", "three red stars"]
    assert set(table.reason) == {"unparsable"} and images == drawn("baseline")


def test_seconds_are_written_beside_the_outs(drawn):
    drawn("rewrite")
    seconds = json.loads((drawn.folder / "timings/rewrite.json").read_text())
    assert seconds["per_image"] > 0 and seconds["rewriting_per_prompt"] > 0
    drawn("baseline")
    assert json.loads((drawn.folder / "timings/baseline.json").read_text()).keys() == {"per_image"}
    assert not (drawn.folder / "baseline/llm.json").exists()


def test_a_missing_language_model_is_one_clear_error(drawn, monkeypatch):
    monkeypatch.setitem(MODELS, "llm", None)
    with pytest.raises(ValueError, match="models.llm is null, and the arm rewrite needs a language model"):
        drawn("rewrite")
