"""prompts/plain: 300 plain prompts, each with a keyword prompt, `include`, and questions with answers."""

import json
import re
from collections import Counter
from itertools import combinations

import pytest
from helpers.repository import ROOT

from sur_adapter.generation.prompts import read_prompts

REAL = ROOT.parent / "shared" / "realdata"
ROWS = read_prompts(ROOT / "prompts/plain")
CATEGORIES = ("action", "color", "counting")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
NUMBERS = {"one": 1, "two": 2, "pair": 2, "couple": 2, "three": 3, "trio": 3, "four": 4, "five": 5, "six": 6, "dozen": 6}  # half a dozen
SMALL_WORDS = set(re.split(" ", "a an the of in on at with and to its his her their is are"))
NOUNS_IN_ING = {"building", "crossing", "cutting", "icing", "living", "rowing", "serving", "something", "starting", "swing", "wedding"}
COCO = set(
    re.split(
        r",\s*",
        """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter,
        bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis,
        snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
        knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
        dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock,
        vase, scissors, teddy bear, hair drier, toothbrush""",
    )
)


def words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def answers(row: dict, skill: str) -> list[str]:
    return [atom["a"] for atom in row["atoms"] if atom["skill"] == skill]


def test_there_are_100_plain_prompts_per_category():
    assert Counter(row["category"] for row in ROWS) == dict.fromkeys(CATEGORIES, 100)
    assert all(row["id"].startswith(f"{row['category']}-") for row in ROWS)


def test_no_two_plain_prompts_are_near_duplicates():
    word_sets = [(row["id"], set(words(row["prompt"])) - SMALL_WORDS) for row in ROWS]
    assert [(a, b) for (a, x), (b, y) in combinations(word_sets, 2) if len(x & y) >= len(x | y) / 2] == []


def test_keyword_prompts_are_lists_and_plain_prompts_are_not():
    for row in ROWS:
        assert row["complex_prompt"].count(",") >= 2 and row["prompt"].count(",") < 2, row["id"]


def test_each_question_has_one_right_choice_and_choices_differ_in_their_first_word():
    for row in ROWS:
        for atom in row["atoms"]:
            assert atom["q"].endswith("?") and atom["skill"] in ("object", "count", "color", "action"), row["id"]
            assert atom["a"] in atom["choices"], row["id"]
            assert len({choice.split()[0] for choice in atom["choices"]}) == len(atom["choices"]) >= 2, row["id"]
        assert len({atom["q"] for atom in row["atoms"]}) == len(row["atoms"]), row["id"]


def test_the_position_of_the_right_choice_is_balanced():
    places = Counter(a["choices"].index(a["a"]) for row in ROWS for a in row["atoms"] if a["skill"] == "action")
    assert set(places) == {0, 1, 2, 3} and max(places.values()) < 1.2 * min(places.values())


def test_questions_cover_exactly_the_counts_colours_and_actions_of_a_prompt():
    for row in ROWS:
        prompt_words = words(row["prompt"])
        counts = Counter(NUMBERS[w] for w in prompt_words if w in NUMBERS)
        answered = Counter(NUMBERS[a] for a in answers(row, "count"))
        assert not counts - answered and not answered - counts - Counter({1: answered[1]}), row["id"]  # "a" counts as one
        assert Counter(answers(row, "color")) == Counter(w for w in prompt_words if w in COLORS), row["id"]
        verbs = {answer.split()[0] for answer in answers(row, "action")}
        assert {w for w in prompt_words if w.endswith("ing")} - NOUNS_IN_ING <= verbs, row["id"]
        assert all(any(d[:3] in w for w in prompt_words) for d in verbs), row["id"]
        skill = {"action": "action", "color": "color", "counting": "count"}[row["category"]]
        assert answers(row, skill), row["id"]


def test_the_keyword_prompt_has_the_same_counts_colours_and_actions():
    for row in ROWS:
        prompt_words = words(row["complex_prompt"])
        assert {w for w in prompt_words if w in COLORS} == set(answers(row, "color")), row["id"]
        assert {str(NUMBERS[a]) for a in answers(row, "count")} - {"1"} == {w for w in prompt_words if w.isdigit()} - {"1"}, row["id"]
        assert all(any(answer[:3] in w for w in prompt_words) for answer in answers(row, "action")), row["id"]


def test_include_uses_coco_names_and_agrees_with_the_answers():
    for row in ROWS:
        classes = [thing["class"] for thing in row["include"]]
        assert classes and set(classes) <= COCO and len(set(classes)) == len(classes), row["id"]
        assert not Counter(t["color"] for t in row["include"] if "color" in t) - Counter(answers(row, "color")), row["id"]
        least = {thing["class"]: thing["count"] for thing in row["include"]}
        assert all(thing["count"] == least[thing["class"]] + 1 for thing in row.get("exclude", [])), row["id"]
        exact = {thing["count"] - 1 for thing in row.get("exclude", [])}
        assert exact - {1} <= {NUMBERS[a] for a in answers(row, "count")}, row["id"]
        assert exact if row["category"] == "counting" else True, row["id"]


def test_no_prompt_is_taken_from_another_benchmark():
    if not REAL.is_dir():
        pytest.skip("the folder of published lists is not beside this checkout")
    lists = [file for file in (REAL / "t2i-compbench").glob("*.txt") if file.name != "SOURCE.txt"]
    others = [line for file in lists for line in file.read_text("utf-8").splitlines()]
    others += [json.loads(line)["prompt"] for line in (REAL / "geneval-prompts/evaluation_metadata.jsonl").read_text("utf-8").splitlines()]
    others += [entry["caption"] for entry in json.loads((REAL / "tifa/tifa_v1.0_text_inputs.json").read_text("utf-8"))]
    assert len(others) > 5000
    assert not {" ".join(words(text)) for text in others} & {" ".join(words(row["prompt"])) for row in ROWS}
