"""Held-out pairs of the data are a list of prompts like any other."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from helpers.repository import ROOT

from sur_adapter.data.prompts.cleaning import clean
from sur_adapter.generation.prompts import read_prompts
from sur_adapter.io.shards import write_table
from sur_adapter.tools.held_out_prompts import suite

PAIRS = pd.DataFrame(
    [
        {"id": "c", "simple_prompt": "a \u2028cat ä", "complex_prompt": "(cat:1.3), 8k", "dropped": None, "split": "test"},
        {"id": "a", "simple_prompt": "two dogs", "complex_prompt": "2 dogs\nbest", "dropped": None, "split": "test"},
        {"id": "b", "simple_prompt": "a cup", "complex_prompt": "cup", "dropped": "nsfw", "split": "test"},
        {"id": "d", "simple_prompt": "a car", "complex_prompt": "car", "dropped": None, "split": "train"},
    ]
).assign(clean_prompt=lambda rows: [clean(prompt) for prompt in rows.complex_prompt])


def test_the_suite_is_the_kept_pairs_that_nothing_was_trained_on_as_models_read_them(tmp_path):
    assert suite(PAIRS, tmp_path / "held") == 2
    assert read_prompts(tmp_path / "held") == [
        {"id": "a", "category": "held_out", "prompt": "two dogs", "complex_prompt": "2 dogs\nbest"},
        {"id": "c", "category": "held_out", "prompt": "a \u2028cat ä", "complex_prompt": "cat, 8k"},
    ]


def test_the_suite_is_the_same_bytes_in_whatever_order_the_pairs_come(tmp_path):
    suite(PAIRS, tmp_path / "x")
    suite(PAIRS[::-1], tmp_path / "y")
    assert (tmp_path / "x/held_out.jsonl").read_bytes() == (tmp_path / "y/held_out.jsonl").read_bytes()


def test_a_suite_may_lie_beside_other_prompts_and_writes_over_none(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"id": "x", "category": "y", "prompt": "z"}\n')
    suite(PAIRS, tmp_path)
    assert [row["id"] for row in read_prompts(tmp_path)] == ["a", "c", "x"]
    before = (tmp_path / "held_out.jsonl").read_bytes()
    with pytest.raises(ValueError, match="held_out.jsonl is there already: remove it first"):
        suite(PAIRS.head(1), tmp_path)
    assert (tmp_path / "held_out.jsonl").read_bytes() == before


def test_without_a_held_out_pair_nothing_is_written_and_the_cure_is_told(tmp_path):
    with pytest.raises(ValueError, match="none of 2 pairs is kept in the test split: raise filter.test"):
        suite(PAIRS[2:], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_door_writes_the_suite_from_the_pairs_that_dvc_yaml_names(tmp_path):
    write_table(tmp_path / "data/pairs.parquet", PAIRS)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text("utf-8"), encoding="utf-8")

    def door(*args: str):
        where = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, "-m", "stages", "suite", *args], cwd=tmp_path, env=where, capture_output=True, text=True)

    assert door("held").stdout == "2 prompts are in held/held_out.jsonl: name held as generate.prompts, and null as evaluate.judge\n"
    assert len(read_prompts(tmp_path / "held")) == 2
    assert door().stderr.strip() == "error: suite takes a folder: 0 were given"
