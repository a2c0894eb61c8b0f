"""The world: scenes from seeds, and what is said of them."""

import re
import subprocess
import sys
from functools import partial

import pytest

from miniature.judge import agree
from miniature.scenes import CATEGORIES, COLORS, make
from miniature.templates import TEMPLATES
from miniature.words import LEXICON, QUALITY, complex_prompt, read, simple_prompt

SCENES = [make(seed) for seed in range(1500)]
SPLITS = ("train", "test", "phrases")


def test_the_same_seed_draws_the_same_picture_and_another_seed_another():
    pictures = [make(seed).draw().tobytes() for seed in range(60)]
    assert pictures == [make(seed).draw().tobytes() for seed in range(60)]
    assert len(set(pictures)) == 60


def test_every_category_holds_what_it_promises():
    for scene in SCENES:
        entries = scene.include
        if scene.category == "counting":
            assert len(entries) == 1 and 1 <= entries[0]["count"] <= 5
        elif scene.category == "color":
            a, b = entries
            assert a["class"] != b["class"] and a["color"] != b["color"]
        else:
            assert len(entries) == 1 and entries[0]["pose"] and entries[0]["class"] in ("person", "robot")
    assert {s.category for s in SCENES} == set(CATEGORIES)
    assert {e["color"] for s in SCENES for e in s.include} == set(COLORS)
    assert {s.include[0]["count"] for s in SCENES if s.category == "counting"} == {1, 2, 3, 4, 5}


def test_an_unknown_category_is_refused_with_the_names_of_the_known():
    with pytest.raises(ValueError, match="'colour' is unknown: name one of action, color, counting"):
        make(0, "colour")


@pytest.mark.parametrize("say", [complex_prompt, *(partial(simple_prompt, split=split) for split in SPLITS)])
def test_what_is_said_of_a_scene_reads_back_as_what_it_shows(say):
    for i, scene in enumerate(SCENES):
        prompt = say(scene, i)
        assert read(prompt) is not None and agree(read(prompt), scene.include), prompt


def test_sentences_that_make_no_sense_in_the_world_are_not_read():
    for sentence in ("", "a nice day", "three red", "a red blue circle", "a person", "a red circle waving", "two red persons waving"):
        assert read(sentence) is None, sentence


def test_reading_tells_who_has_which_colour():
    assert read("a red circle and a blue square") != read("a blue circle and a red square")
    assert read("the square is blue and the circle is red") == read("red circle, blue square, 8k")


def test_keyword_prompts_carry_digits_and_quality_tags_in_many_places():
    prompts = [complex_prompt(s, i) for i, s in enumerate(SCENES)]
    first, last = ({p.split(", ")[at] in QUALITY for p in prompts} for at in (0, -1))
    assert first == last == {True, False}
    counted = [p for p, s in zip(prompts, SCENES, strict=True) if s.category == "counting"]
    assert all(re.search(r"\b[1-5] ", p) for p in counted)


def test_plain_sentences_carry_no_digits_and_no_quality_tags():
    sentences = [simple_prompt(s, i, split) for i, s in enumerate(SCENES) for split in SPLITS]
    assert not any(re.search(r"\d", s) or any(tag in s for tag in QUALITY) for s in sentences)


def test_test_sentences_are_new_in_their_build_but_not_in_their_words():
    for splits in TEMPLATES.values():
        assert not set(splits["train"]) & set(splits["test"])
        assert min(len(splits["train"]), 2 * len(splits["test"])) >= 20
    said = {split: {simple_prompt(make(i), i, split) for i in range(6000)} for split in ("train", "test")}
    words = {split: set(" ".join(sentences).lower().replace(",", "").split()) for split, sentences in said.items()}
    assert words["test"] <= words["train"]
    assert not said["train"] & said["test"]


def test_phrases_know_the_words_of_the_test_and_say_them_in_thousands_of_other_builds():
    scenes = [make(i) for i in range(6000)]
    said = {split: [simple_prompt(s, i, split) for i, s in enumerate(scenes)] for split in ("phrases", "test")}
    words = {split: set(" ".join(sentences).lower().replace(",", "").split()) for split, sentences in said.items()}
    assert words["test"] <= words["phrases"]
    builds = {split: set(map(build, sentences)) for split, sentences in said.items()}
    assert len(builds["phrases"]) > 3000 and len(builds["test"]) > 30
    assert not builds["phrases"] & builds["test"]


def build(sentence: str) -> str:
    """A sentence without what it tells: "a COLOR CLASS near a COLOR CLASS"."""
    words = re.findall(r"[a-z]+|,", sentence.lower())
    return " ".join(LEXICON[w][0].upper() if w in LEXICON else re.sub("^an$", "a", w) for w in words)


def test_an_article_fits_its_noun():
    sentences = [simple_prompt(s, i, split) for i, s in enumerate(SCENES) for split in SPLITS]
    assert not any(re.search(r"\ba [aeio]|\ban [^aeio]", s) for s in sentences)


def test_the_world_the_judge_and_the_gallery_need_no_torch():
    code = "import sys, miniature.judge, miniature.gallery, miniature.words; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
