"""Evaluation prompts: the miniature's lists are what their command writes, not training data, and invalid lists are refused."""

import json
from collections import Counter
from pathlib import Path

import pytest

from miniature.judge import shows
from miniature.prompts import FIRST, prompts
from miniature.scenes import CATEGORIES, HELD_OUT, make
from miniature.words import read, simple_prompt
from sur_adapter.evaluation.judges import pictograms
from sur_adapter.generation.prompts import (
    MAIN,
    PromptSets,
    first_of_each_set,
    first_per_category,
    read_prompt_sets,
    read_prompts,
)

ROOT = Path(__file__).parents[2]
MINIATURE, DEVELOPMENT = ROOT / "prompts/miniature", ROOT / "prompts/development"
GOOD = {"id": "a-1", "category": "a", "prompt": "a red circle"}


def file(folder: Path, *lines: str) -> Path:
    path = folder / "list.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_shorter_list_is_the_beginning_of_a_longer_one():
    for category in CATEGORIES:
        assert prompts(category, 7) == prompts(category, 20)[:7]


def test_development_and_test_prompts_have_their_sets_and_share_no_sentence():
    kinds = ("reasoning_colour", "reasoning_number", "reasoning_pose")
    development, test = read_prompt_sets(DEVELOPMENT), read_prompt_sets(MINIATURE)
    assert {name: Counter(row["category"] for row in rows) for name, rows in development.items()} == {
        MAIN: dict.fromkeys(CATEGORIES, 100),
        "hand_written": dict.fromkeys(("known_words", "wild"), 75),
        "reasoning": dict.fromkeys(kinds, 60),
    }
    assert {name: Counter(row["category"] for row in rows) for name, rows in test.items()} == {
        MAIN: dict.fromkeys(CATEGORIES, 100),
        "combinations": dict.fromkeys((f"combination_{kind}" for kind in HELD_OUT), 60),
        "held_out": dict.fromkeys(("held_out_far", "held_out_near"), 60),
        "reasoning": dict.fromkeys(kinds, 60),
    }
    first, second = ({row["prompt"] for rows in sets.values() for row in rows} for sets in (development, test))
    assert not first & second
    stated = [*development[MAIN], *test[MAIN], *test["combinations"]]
    assert all(read(row["prompt"]) == read(row["complex_prompt"]) == row["include"] for row in stated)
    scenes = Counter(row["id"].split("-")[1] for row in first_per_category(development["hand_written"], 40))
    assert min(scenes.values()) > 25, "kinds of scenes take turns in the files, so that each keeps its share"


@pytest.mark.parametrize(
    ("path", "role"), [("prompts/a", "test"), ("prompts/a/", "test"), ("prompts/b", "development"), ("prompts/c", ""), ("prompts", "")]
)
def test_prompts_know_whether_settings_are_chosen_on_them(path, role):
    assert PromptSets("prompts/b", "prompts/a").role(path) == role and PromptSets().role(path) == ""


def test_a_sealed_list_is_named_by_its_sha256():
    assert PromptSets(sealed=("0" * 64,)).sealed == ("0" * 64,)
    with pytest.raises(ValueError, match="sealed has 'abc': give the SHA-256 of a file"):
        PromptSets(sealed=("abc",))


def test_there_are_100_prompts_per_category_and_no_duplicates():
    rows = read_prompts(MINIATURE)
    assert {c: sum(r["category"] == c for r in rows) for c in CATEGORIES} == dict.fromkeys(CATEGORIES, 100)
    assert len({r["prompt"] for r in rows}) == 300


def test_no_test_prompt_is_in_the_training_data():
    training_prompts = {simple_prompt(make(seed), seed) for seed in range(24_000)}
    assert not training_prompts & {r["prompt"] for r in read_prompts(MINIATURE)}
    assert FIRST > 2_000_000 + 100_000


def test_plain_and_keyword_prompt_describe_what_include_lists():
    for row in read_prompts(MINIATURE):
        assert read(row["prompt"]) == read(row["complex_prompt"]) == row["include"], row["id"]


def judge(image, row: dict) -> bool:
    ((shown, *_),) = pictograms.verdicts([image], [row], pictograms.Config())
    return shown


def test_the_judge_accepts_an_image_of_the_prompt_and_no_other():
    rows = {category: prompts(category, 10) for category in CATEGORIES}
    for row in sum(rows.values(), []):
        scene = next(s for s in (make(n, row["category"], known=True) for n in range(FIRST, FIRST + 1000)) if s.include == row["include"])
        assert judge(scene.draw(), row) and shows(scene.draw(), row["include"])
        assert judge(make(5).draw(), row) == (make(5).include == row["include"])


def test_the_judge_names_a_prompt_without_include():
    with pytest.raises(ValueError, match="'a-1' has no `include`"):
        pictograms.verdicts([make(0).draw()], [GOOD], pictograms.Config())


def test_files_of_a_folder_are_read_by_name_and_rows_in_order(tmp_path):
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(GOOD | {"id": i}) + "\n" for i in ("z", "y")))
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD | {"id": "x"}) + "\n\n")
    assert [r["id"] for r in read_prompts(tmp_path)] == ["x", "z", "y"]
    assert [r["id"] for r in read_prompts(tmp_path / "b.jsonl")] == ["z", "y"]


def test_unicode_line_separators_do_not_end_a_row(tmp_path):
    path = file(tmp_path, json.dumps(GOOD | {"prompt": "a\u2028b\x85c"}, ensure_ascii=False))
    assert read_prompts(path)[0]["prompt"] == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([json.dumps(GOOD), "{oops"], r"list\.jsonl, line 2: not JSON"),
        (["[1]"], "line 1: a list instead of an object"),
        ([json.dumps({"id": "a", "category": "b"})], "line 1: 'prompt' is missing"),
        ([json.dumps(GOOD | {"prompt": 3})], "'prompt' is missing or not a text"),
        ([json.dumps(GOOD | {"category": " "})], "'category' is missing"),
        ([json.dumps(GOOD | {"template": 3})], "line 1: 'template' is not a text"),
        ([json.dumps(GOOD), "", json.dumps(GOOD)], "line 3: the id 'a-1' was already used in .*line 1"),
        ([json.dumps(GOOD | {"id": "../x"})], "cannot name a file"),
        ([json.dumps(GOOD | {"id": "a.b"})], "cannot name a file"),
        ([json.dumps(GOOD | {"prompt": "\ud800"})], "line 1: half a character"),
        ([""], "holds no prompt"),
    ],
)
def test_an_invalid_row_is_reported_in_one_sentence_with_file_and_line(tmp_path, lines, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_prompts(file(tmp_path, *lines))


def test_a_folder_without_prompts_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(FileNotFoundError, match=r"holds no \*\.jsonl"):
            read_prompts(path)


def write_set(folder: Path, name: str, category: str, ids: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"{category}-{i}", "category": category, "prompt": f"{category} {i}"} for i in ids]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_each_sub_folder_is_a_set_and_the_main_set_comes_first(tmp_path):
    write_set(tmp_path, "zebra", "zebra", "ab")
    write_set(tmp_path / "one", "apple", "apple", "abc")
    write_set(tmp_path / "another", "pear", "pear", "a")
    (tmp_path / "empty").mkdir()
    sets = read_prompt_sets(tmp_path)
    assert {name: [row["id"] for row in rows] for name, rows in sets.items()} == {
        MAIN: ["zebra-a", "zebra-b"], "another": ["pear-a"], "one": ["apple-a", "apple-b", "apple-c"]
    }  # fmt: skip
    assert list(sets) == [MAIN, "another", "one"]
    assert [row["id"] for row in read_prompts(tmp_path)] == ["zebra-a", "zebra-b"]
    first = {name: [row["id"] for row in rows] for name, rows in first_of_each_set(tmp_path, 2).items()}
    assert first == {MAIN: ["zebra-a", "zebra-b"], "another": ["pear-a"], "one": ["apple-a", "apple-b"]}


def test_a_file_of_prompts_is_a_main_set_alone(tmp_path):
    write_set(tmp_path, "a", "a", "xy")
    assert list(read_prompt_sets(tmp_path / "a.jsonl")) == [MAIN]


def test_sets_that_share_a_category_or_an_id_are_refused(tmp_path):
    write_set(tmp_path, "a", "a", "xy")
    write_set(tmp_path / "more", "b", "a", "z")
    with pytest.raises(ValueError, match="category 'a' in the sets 'main' and 'more': give each set categories of its own"):
        read_prompt_sets(tmp_path)
    write_set(tmp_path / "more", "b", "a", "x")
    with pytest.raises(ValueError, match="the id 'a-x' was already used in the main set"):
        read_prompt_sets(tmp_path)
    (tmp_path / "more").rename(tmp_path / "main")
    with pytest.raises(ValueError, match="named 'main'.*rename the folder"):
        read_prompt_sets(tmp_path)


def test_the_hand_written_sentences_can_be_judged_and_their_keyword_prompts_ask_for_the_same():
    rows = read_prompt_sets(DEVELOPMENT)["hand_written"]
    assert {c: sum(r["category"] == c for r in rows) for c in ("known_words", "wild")} == {"known_words": 75, "wild": 75}
    for row in rows:
        assert read(row["complex_prompt"]) == row["include"] and row["tag"], row["id"]
        assert not judge(make(3).draw(), row) or make(3).include == row["include"]
