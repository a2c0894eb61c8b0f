"""Published benchmarks are recognised by their content and read completely, with stable ids."""

import json
from collections import Counter

import pytest
from helpers.repository import ROOT

from sur_adapter.generation.prompts import read_prompts

REAL = ROOT.parent / "shared" / "realdata"
GENEVAL = [
    {
        "tag": "counting",
        "include": [{"class": "cup", "count": 2}],
        "exclude": [{"class": "cup", "count": 3}],
        "prompt": "a photo of two cups",
    },
    {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}], "prompt": "a photo of a red cup"},
    {"tag": "position", "include": [{"class": "cup", "count": 1}], "prompt": "a photo of a cup left of a tie"},
    {"tag": "two_object", "include": [{"class": "cup", "count": 1}, {"class": "tie", "count": 1}], "prompt": "a photo of a cup and a tie"},
]
CATS = {"id": "coco_1", "caption": "Two cats."}
TIFA = [
    CATS | {"question": "how many cats?", "choices": ["1", "2"], "answer": "2", "element_type": "counting"},
    CATS | {"question": "a cat?", "choices": ["yes", "no"], "answer": "yes", "element_type": "animal/human"},
    {
        "id": "drawbench_7",
        "caption": "A red cup.",
        "question": "which?",
        "choices": ["red", "blue"],
        "answer": "red",
        "element_type": "color",
    },
]
PARTI = 'Prompt\tCategory\tChallenge\tNote\n"hello" on a wall\tArts\tWriting & Symbols\t\nten red apples\tFood\tQuantity\tten, "not 9\n'


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder, name: str, text: str):
    (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return folder / name


def real(name: str):
    if not REAL.is_dir():
        pytest.skip("the folder of published lists is not beside this checkout")
    return read_prompts(REAL / name)


def test_geneval_keeps_include_and_leaves_out_positions(tmp_path):
    rows = read_prompts(write(tmp_path, "any.jsonl", lines(GENEVAL)))
    assert [row["category"] for row in rows] == ["counting", "color", "two_object"]
    assert [row["prompt"] for row in rows] == [g["prompt"] for g in GENEVAL if g["tag"] != "position"]
    assert rows[0]["include"] == GENEVAL[0]["include"] and rows[0]["exclude"] == GENEVAL[0]["exclude"] and "exclude" not in rows[1]


def test_tifas_questions_become_atoms_of_their_prompt(tmp_path):
    first, second = read_prompts(write(tmp_path, "any.json", json.dumps(TIFA)))
    assert (first["id"], first["category"], first["prompt"]) == ("coco_1", "coco", "Two cats.")
    assert first["atoms"] == [
        {"skill": "count", "q": "how many cats?", "a": "2", "choices": ["1", "2"]},
        {"skill": "object", "q": "a cat?", "a": "yes", "choices": ["yes", "no"]},
    ]
    assert second["category"] == "drawbench" and [a["skill"] for a in second["atoms"]] == ["color"]


def test_quotation_marks_of_partiprompts_belong_to_the_prompt(tmp_path):
    rows = read_prompts(write(tmp_path, "any.tsv", PARTI))
    assert [(row["prompt"], row["category"]) for row in rows] == [('"hello" on a wall', "writing_symbols"), ("ten red apples", "counting")]


@pytest.mark.parametrize(("name", "category"), [("color_val", "color"), ("numeracy_train", "counting"), ("3d_spatial_val", "3d_spatial")])
def test_a_list_of_t2i_compbench_is_recognised_by_its_file_name(tmp_path, name, category):
    rows = read_prompts(write(tmp_path, f"{name}.txt", "a red cup\r\n\r\ntwo cups "))
    assert [(row["prompt"], row["category"]) for row in rows] == [("a red cup", category), ("two cups", category)]


@pytest.mark.parametrize(
    ("name", "text"), [("numeracy_val.txt", "two cups\ntwo ties\nthree cats"), ("g.jsonl", lines(GENEVAL)), ("p.tsv", PARTI)]
)
def test_a_prompt_keeps_its_id_when_its_list_is_shortened_or_reversed(tmp_path, name, text):
    reference = {row["prompt"]: row["id"] for row in read_prompts(write(tmp_path, name, text))}
    head, *rest = text.splitlines(keepends=True)
    changed = head + "\n" * (not head.endswith("\n")) + "".join(rest[:0:-1]) if name == "p.tsv" else "\n".join(text.splitlines()[:0:-1])
    cut = {row["prompt"]: row["id"] for row in read_prompts(write(tmp_path, name, changed))}
    assert 0 < len(cut) < len(reference) and cut.items() <= reference.items() and len(set(reference.values())) == len(reference)


def test_a_repeated_prompt_is_kept_twice(tmp_path):
    first, second = read_prompts(write(tmp_path, "color_val.txt", "a red cup\na red cup"))
    assert first["prompt"] == second["prompt"] and second["id"] == f"{first['id']}-2"


def test_a_folder_of_benchmarks_is_read_together_unless_it_holds_jsonl(tmp_path):
    write(tmp_path, "color_val.txt", "a red cup")
    write(tmp_path, "p.tsv", PARTI)
    assert [row["category"] for row in read_prompts(tmp_path)] == ["color", "writing_symbols", "counting"]
    write(tmp_path, "own.jsonl", lines([{"id": "a", "category": "b", "prompt": "c"}]))
    assert [row["id"] for row in read_prompts(tmp_path)] == ["a"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("notes.txt", "a red cup", r"notes\.txt is no known list of prompts: .* geneval, parti, t2i_compbench, tifa"),
        ("x.jsonl", lines(GENEVAL[:1]) + "{", r"x\.jsonl, line 2: not a line of GenEval"),
        ("x.jsonl", lines([*GENEVAL[:1], GENEVAL[1] | {"tag": "smell"}]), r"line 2: not a line of GenEval \('smell'\)"),
        ("x.jsonl", lines([*GENEVAL[:1], GENEVAL[1] | {"prompt": 3}]), "line 2: not a line of GenEval"),
        ("x.jsonl", lines([*GENEVAL[:1], GENEVAL[1] | {"prompt": "\ud800"}]), "prompt 2: half a character"),
        ("x.json", json.dumps(TIFA)[:-1], "not JSON .*: use TIFA's file as published"),
        ("x.json", json.dumps([TIFA[0], TIFA[2] | {"id": "coco_1"}]), "entry 2: 'coco_1' has another caption"),
        ("x.json", json.dumps([TIFA[0], {"id": 3}]), r"entry 2: not an entry of TIFA \(KeyError\('caption'\)\)"),
        ("x.tsv", PARTI + "\tArts\tBasic\t\n", "line 4: no prompt or no challenge"),
        ("x.tsv", PARTI + "a" * 200_000, "not a tab-separated table"),
    ],
)
def test_an_unknown_or_malformed_list_is_reported_in_one_sentence(tmp_path, name, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_prompts(write(tmp_path, name, text))


def test_a_list_that_is_not_utf8_is_reported_in_one_sentence_and_a_byte_order_mark_is_ignored(tmp_path):
    (tmp_path / "color_val.txt").write_bytes("a caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"color_val\.txt is not text in UTF-8 .*: save it as UTF-8"):
        read_prompts(tmp_path)
    (tmp_path / "color_val.txt").write_bytes("a café".encode("utf-8-sig"))
    assert read_prompts(tmp_path)[0]["prompt"] == "a café"


def test_the_real_geneval_is_read_completely():
    rows = real("geneval-prompts/evaluation_metadata.jsonl")
    assert Counter(r["category"] for r in rows) == {"color": 194, "counting": 80, "single_object": 80, "two_object": 99}
    assert all(("exclude" in row) == (row["category"] == "counting") for row in rows)


@pytest.mark.parametrize(
    ("name", "category", "count"), [("color", "color", 300), ("numeracy", "counting", 300), ("non_spatial", "action", 300)]
)
def test_the_real_lists_of_t2i_compbench_are_read_completely(name, category, count):
    rows = real(f"t2i-compbench/{name}_val.txt")
    assert len(rows) == count and {row["category"] for row in rows} == {category}
    assert not any(row["prompt"] != row["prompt"].strip() or "\r" in row["prompt"] for row in rows)


def test_the_real_tifa_is_read_completely_with_and_without_questions():
    rows = real("tifa/tifa_v1.0_text_inputs.json")
    assert Counter(r["category"] for r in rows) == {"coco": 2000, "drawbench": 161, "partiprompt": 1420, "paintskill": 500}
    rows = real("tifa/sample/sample_question_answers.json")
    assert sum(len(row["atoms"]) for row in rows) == 19 and all(a["a"] in a["choices"] for row in rows for a in row["atoms"])
