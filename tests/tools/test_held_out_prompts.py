"""Held-out test pairs become evaluation prompts that generate reads like any others."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from helpers.repository import ROOT

from sur_adapter.data.prompts.cleaning import clean
from sur_adapter.generation.prompts import read_prompts
from sur_adapter.io.shards import write_table
from sur_adapter.tools.held_out_prompts import write_held_out_prompts

PAIRS = pd.DataFrame(
    [
        {"id": "c", "simple_prompt": "a \u2028cat ä", "complex_prompt": "(cat:1.3), 8k", "dropped": None, "split": "test"},
        {"id": "a", "simple_prompt": "two dogs", "complex_prompt": "2 dogs\nbest", "dropped": None, "split": "test"},
        {"id": "b", "simple_prompt": "a cup", "complex_prompt": "cup", "dropped": "nsfw", "split": "test"},
        {"id": "d", "simple_prompt": "a car", "complex_prompt": "car", "dropped": None, "split": "train"},
    ]
).assign(clean_prompt=lambda rows: [clean(prompt) for prompt in rows.complex_prompt])


def test_the_kept_pairs_of_the_test_split_are_written_with_cleaned_keyword_prompts(tmp_path):
    assert write_held_out_prompts(PAIRS, tmp_path / "held") == 2
    assert read_prompts(tmp_path / "held") == [
        {"id": "a", "category": "held_out", "prompt": "two dogs", "complex_prompt": "2 dogs\nbest"},
        {"id": "c", "category": "held_out", "prompt": "a \u2028cat ä", "complex_prompt": "cat, 8k"},
    ]


def test_the_order_of_the_pairs_does_not_change_the_bytes(tmp_path):
    write_held_out_prompts(PAIRS, tmp_path / "x")
    write_held_out_prompts(PAIRS[::-1], tmp_path / "y")
    assert (tmp_path / "x/held_out.jsonl").read_bytes() == (tmp_path / "y/held_out.jsonl").read_bytes()


def test_the_file_may_lie_beside_other_prompts_and_is_never_overwritten(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"id": "x", "category": "y", "prompt": "z"}\n')
    write_held_out_prompts(PAIRS, tmp_path)
    assert [row["id"] for row in read_prompts(tmp_path)] == ["a", "c", "x"]
    before = (tmp_path / "held_out.jsonl").read_bytes()
    with pytest.raises(ValueError, match="held_out.jsonl exists already: remove it"):
        write_held_out_prompts(PAIRS.head(1), tmp_path)
    assert (tmp_path / "held_out.jsonl").read_bytes() == before


def test_without_a_held_out_pair_nothing_is_written_and_the_error_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="none of 2 pairs is kept in the test split: raise filter.test"):
        write_held_out_prompts(PAIRS[2:], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_reads_the_pairs_of_the_pipeline_and_writes_the_prompts(tmp_path):
    write_table(tmp_path / "data/pairs.parquet", PAIRS)
    (tmp_path / "params.yaml").write_text("{}")

    def suite(*args: str):
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, "-m", "stages", "suite", *args], cwd=tmp_path, env=env, capture_output=True, text=True)

    expected = "wrote 2 prompts to held/held_out.jsonl: set generate.prompts to held, and evaluate.judge to null\n"
    assert suite("--out", "held").stdout == expected
    assert len(read_prompts(tmp_path / "held")) == 2
    assert "the following arguments are required: --out" in suite().stderr
