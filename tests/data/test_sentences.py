"""Sentences without images: sources, duplicates, the distance from held-out prompts, splits, and errors of one sentence."""

import json
import random
from time import perf_counter

import numpy as np
import pandas as pd
import pytest
from helpers.repository import ROOT
from helpers.stages import run_stage

from sur_adapter.data.sentence_selection.held_out import read_held_out
from sur_adapter.data.sentence_selection.word_edits import min_word_edits, normalise
from sur_adapter.io.hashing import short_digest
from sur_adapter.io.shards import read_table, write_table

HELD_OUT = ["A drawing of three red circles, side by side", "two blue squares"]


@pytest.fixture
def pairs(tmp_path):
    rows = [{"id": f"{k}", "simple_prompt": f"picture {k} of a quiet little town", "dropped": None, "split": "train"} for k in range(6)]
    rows[1]["split"], rows[2]["dropped"] = "test", "nsfw"
    write_table(tmp_path / "pairs.parquet", rows[::-1])
    return tmp_path / "pairs.parquet"


def collect(tmp_path, pairs, text: str | None = None, name: str = "own.txt", **section) -> tuple[pd.DataFrame, dict]:
    """Runs the stage on a file of sentences; returns the table and the report."""
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        section = {"sources": {"file": {"path": str(tmp_path / name)}}} | section
    out, report = tmp_path / "data/sentences.parquet", tmp_path / "reports/sentences.json"
    run_stage("sentences", {"sentences": section}, pairs=pairs, out=out, report=report)
    return read_table(out), json.loads(report.read_text())


def edits(a: list, b: list) -> int:
    """Levenshtein's distance by its definition."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, last = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(row[-1] + 1, last[j] + 1, last[j - 1] + (x != y)))
    return row[-1]


def test_min_word_edits_is_the_edit_distance_of_words_up_to_the_limit():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdefg", k=rng.randint(1, 9))) for _ in range(150)]
    sentences, held_out = texts[:100], texts[100:110]
    expected = [min(min(edits(s.split(), h.split()) for h in held_out), 4) for s in sentences]
    found = min_word_edits(sentences, held_out, 3)
    assert found.tolist() == expected and set(expected) == {1, 2, 3, 4} | ({0} & set(expected))
    assert min_word_edits(["new words here"], ["other old ones"], 3).tolist() == [3]
    assert min_word_edits(["a b"], [], 3).tolist() == [4] and len(min_word_edits([], ["a"], 3)) == 0


def test_normalise_ignores_case_punctuation_width_and_spaces():
    assert normalise("  It's a “Red” circle — really!\n") == normalise("ＩTS a red   circle, really") == "its a red circle really"
    assert normalise("grass-green") == "grass green" and normalise("赤い円。").split() == list("赤い円")
    assert normalise("…!") == ""


def test_duplicates_empty_lines_and_sentences_near_a_held_out_prompt_are_dropped_with_their_reason(tmp_path, pairs):
    (tmp_path / "held/deep").mkdir(parents=True)
    (tmp_path / "held/deep/set.jsonl").write_text("".join(json.dumps({"id": "x", "prompt": p}) + "\n" for p in HELD_OUT))
    (tmp_path / "held/README.md").write_text("Not a prompt.")
    sentences = [
        "A drawing of THREE red circles side by side!",  # 0 edits
        "a drawing of four green circles in line",  # 4: four, green, in, line for three, red, side by side; one word less
        "two blue squares and two black stars",  # 4
        "two blue squares under a moon",  # 3
        "Under a moon two blue squares sleep quietly.",
        "under a moon, two blue squares sleep quietly",
        "?!",
    ]
    expected = [min(edits(normalise(s).split(), normalise(h).split()) for h in HELD_OUT) for s in sentences]
    table, report = collect(tmp_path, pairs, "\n".join(sentences), held_out=[str(tmp_path / "held")], min_edits=4)
    assert table.sentence.tolist() == sentences
    reasons = [None if pd.isna(r) else r for r in table.reason]
    assert reasons == ["near_held_out" if e < 4 else None for e in expected[:5]] + ["duplicate", "empty"]
    assert reasons[0] == reasons[3] == "near_held_out" and reasons[2] is None and table.keep.tolist() == [r is None for r in reasons]
    assert table.id[4] == table.id[5] == short_digest("under a moon two blue squares sleep quietly")
    assert report["in"] == 7 == report["kept"] + sum(report["dropped"].values()) and report["held_out_prompts"] == 2
    again, _ = collect(tmp_path, pairs, "\n".join(sentences), held_out=[str(tmp_path / "held")], min_edits=0)
    assert again.reason.dropna().tolist() == ["duplicate", "empty"]


def test_the_split_depends_on_the_normalised_sentence_alone(tmp_path, pairs):
    lines = [f"sentence number {k} of many" for k in range(2000)]
    table, report = collect(tmp_path, pairs, "\n".join(lines), validation=0.1)
    assert 150 < report["by_split"]["validation"] < 250 and sum(report["by_split"].values()) == 2000
    other, _ = collect(tmp_path, pairs, "\n".join(f"{line.upper()}!" for line in lines[::-1][:500]), validation=0.1)
    assert table.set_index("id")["split"][other.id].tolist() == other["split"].tolist()


def test_parquet_and_json_lines_carry_kind_and_ready_answers_and_sources_share_their_duplicates(tmp_path, pairs):
    rows = [
        {"sentence": "a circle the color of grass", "kind": "reasoning/colour", "answer": "1 green circle", "min_logprob": -0.1, "n": 1},
        {"sentence": "Picture 0 of a quiet little town", "kind": None, "answer": " ", "min_logprob": None, "n": 2},
    ]
    write_table(tmp_path / "own.parquet", rows)
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = []
    for name in ("own.parquet", "own.jsonl"):
        sources = {"file": {"path": [str(tmp_path / name)]}, "captions": {}}
        tables.append(collect(tmp_path, pairs, sources=sources)[0])
    pd.testing.assert_frame_equal(*tables)
    table = tables[0]
    assert table.source.tolist() == ["file"] * 2 + ["captions"] * 4
    assert table.kind.tolist() == ["reasoning/colour", "", *["caption"] * 4]
    assert table.sentence[2:].tolist() == [f"picture {k} of a quiet little town" for k in (0, 3, 4, 5)]
    assert table.answer[0] == "1 green circle" and table.answer[1:].isna().all() and table.min_logprob[0] == -0.1
    assert np.isnan(table.mean_logprob[0]) and table.reason.dropna().to_dict() == {2: "duplicate"}


def test_without_sources_the_table_is_empty_and_held_out_prompts_are_not_needed(tmp_path, pairs):
    table, report = collect(tmp_path, pairs, sources={}, held_out=["nowhere"])
    assert table.empty and "answer" in table and report["in"] == report["kept"] == 0


def test_held_out_prompts_are_read_from_every_published_format(tmp_path):
    texts = {
        "a/b.jsonl": '{"prompt": "one"}\n\n{"id": "x", "prompt": "two"}\n',
        "a/parti.tsv": "Prompt\tCategory\tChallenge\nthree\tA\tB\n",
        "a/color_val.txt": "four\nfive\n",
        "tifa.json": '[{"id": "coco_1", "caption": "six"}, {"id": "coco_1", "caption": "six"}]',
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert sorted(set(read_held_out((str(tmp_path),)))) == ["five", "four", "one", "six", "three", "two"]
    assert len(read_held_out((str(ROOT / "prompts/miniature/color.jsonl"),))) > 50


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("own.txt", b"caf\xe9", "own.txt is not text in UTF-8 .*: save it as UTF-8"),
        ("own.txt", "\n \n", "own.txt holds no sentence: write at least one"),
        ("own.csv", "a", "own.csv is none of .txt, .jsonl, .parquet: convert it"),
        ("own.jsonl", "{", "own.jsonl, line 1: not JSON"),
        ("own.jsonl", '{"text": "a"}', "own.jsonl, line 1: no text under `sentence`"),
        ("own.jsonl", '{"sentence": "a", "min_logprob": 0.5}', "line 1: min_logprob is 0.5: a log-probability is 0 or less"),
        ("own.jsonl", '{"sentence": "\\ud800"}', "line 1: half a character"),
        ("own.parquet", "not Parquet", "own.parquet cannot be read|a table under .*own.parquet cannot be read"),
        ("own.txt", "?!\n...", r"none of 2 sentences is kept \(\{'empty': 2\}\): change params.yaml, section sentences"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, pairs, name, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        collect(tmp_path, pairs, text, name)


def test_bad_settings_are_refused_in_one_sentence(tmp_path, pairs):
    write_table(tmp_path / "own.parquet", [{"text": "a"}])
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text('{"id": 1}')
    cases = [
        ({"sources": {"file": {"path": str(tmp_path / "own.parquet")}}}, "own.parquet has no column sentence, but text: rename"),
        ({"sources": {"file": {"path": "nowhere.txt"}}}, "sentences.sources.file.path: nowhere.txt is no file"),
        ({"sources": {"fiel": {}}}, "sentences has no 'fiel' .did you mean 'file'"),
        ({"sources": {"captions": {"limit": 0}}}, "sentences.sources.captions.limit is 0: give at least 1"),
        ({"sources": {"captions": {}}, "held_out": ["nowhere"]}, "sentences.held_out: nowhere is missing"),
        ({"sources": {"captions": {}}, "held_out": [str(tmp_path / "empty")]}, "sentences.held_out: .*empty holds no prompt"),
        ({"sources": {"captions": {}}, "held_out": [str(tmp_path / "bad.jsonl")]}, "bad.jsonl, line 1: no prompt"),
        ({"min_edits": -1}, "sentences.min_edits is -1: give a whole number, 0 or more"),
        ({"validation": 1}, "sentences.validation is 1.0: give a share from 0 to less than 1"),
    ]
    for section, sentence in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            collect(tmp_path, pairs, **section)


def test_forty_thousand_sentences_are_compared_with_eight_hundred_prompts_in_seconds():
    rng = random.Random(0)
    words = [f"word{k}" for k in range(300)]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 25))) for _ in range(10_800)]
    start = perf_counter()
    found = min_word_edits(texts[800:], texts[:800], 3)
    assert perf_counter() - start < 8 and len(found) == 10_000 and (found == 4).mean() > 0.99


def test_captions_near_held_out_prompts_are_counted_for_each_list(tmp_path, pairs):
    for name, prompts in {"near": ["picture 9 of a town", "red"], "far": ["three red circles"]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(prompts))
    held_out = [str(tmp_path / "near.txt"), str(tmp_path / "far.txt")]
    _, report = collect(tmp_path, pairs, "a sentence of no importance at all", held_out=held_out, min_edits=4)
    assert report["captions"] == {"distinct": 4, "near_held_out": {held_out[0]: 4, held_out[1]: 0}}
