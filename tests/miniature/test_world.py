"""Scenes from seeds, and the prompts that describe them."""

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


def test_the_same_seed_gives_the_same_image_and_another_seed_another_one():
    images = [make(seed).draw().tobytes() for seed in range(60)]
    assert images == [make(seed).draw().tobytes() for seed in range(60)]
    assert len(set(images)) == 60


def test_scenes_of_every_category_have_its_counts_colours_and_classes():
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


def test_an_unknown_category_is_refused_and_the_error_names_the_known_ones():
    with pytest.raises(ValueError, match="'colour' is unknown: name one of action, color, counting"):
        make(0, "colour")


@pytest.mark.parametrize("write_prompt", [complex_prompt, *(partial(simple_prompt, split=split) for split in SPLITS)])
def test_the_prompt_of_a_scene_is_parsed_to_what_the_scene_shows(write_prompt):
    for i, scene in enumerate(SCENES):
        prompt = write_prompt(scene, i)
        assert read(prompt) is not None and agree(read(prompt), scene.include), prompt


def test_sentences_that_describe_no_possible_scene_are_not_parsed():
    for sentence in ("", "a nice day", "three red", "a red blue circle", "a person", "a red circle waving", "two red persons waving"):
        assert read(sentence) is None, sentence


def test_parsing_assigns_each_colour_to_its_object():
    assert read("a red circle and a blue square") != read("a blue circle and a red square")
    assert read("the square is blue and the circle is red") == read("red circle, blue square, 8k")


def test_keyword_prompts_have_digits_and_quality_tags_in_varying_positions():
    prompts = [complex_prompt(s, i) for i, s in enumerate(SCENES)]
    first, last = ({p.split(", ")[at] in QUALITY for p in prompts} for at in (0, -1))
    assert first == last == {True, False}
    counted = [p for p, s in zip(prompts, SCENES, strict=True) if s.category == "counting"]
    assert all(re.search(r"\b[1-5] ", p) for p in counted)


def test_plain_sentences_have_no_digits_and_no_quality_tags():
    sentences = [simple_prompt(s, i, split) for i, s in enumerate(SCENES) for split in SPLITS]
    assert not any(re.search(r"\d", s) or any(tag in s for tag in QUALITY) for s in sentences)


def test_test_sentences_have_new_templates_but_no_new_words():
    for splits in TEMPLATES.values():
        assert not set(splits["train"]) & set(splits["test"])
        assert min(len(splits["train"]), 2 * len(splits["test"])) >= 20
    by_split = {split: {simple_prompt(make(i), i, split) for i in range(6000)} for split in ("train", "test")}
    words = {split: set(" ".join(sentences).lower().replace(",", "").split()) for split, sentences in by_split.items()}
    assert words["test"] <= words["train"]
    assert not by_split["train"] & by_split["test"]


def test_phrases_have_the_words_of_the_test_split_in_thousands_of_other_templates():
    scenes = [make(i) for i in range(6000)]
    by_split = {split: [simple_prompt(s, i, split) for i, s in enumerate(scenes)] for split in ("phrases", "test")}
    words = {split: set(" ".join(sentences).lower().replace(",", "").split()) for split, sentences in by_split.items()}
    assert words["test"] <= words["phrases"]
    templates = {split: set(map(template, sentences)) for split, sentences in by_split.items()}
    assert len(templates["phrases"]) > 3000 and len(templates["test"]) > 30
    assert not templates["phrases"] & templates["test"]


def template(sentence: str) -> str:
    """Replaces each word of the lexicon by its kind: "a COLOR CLASS near a COLOR CLASS"."""
    words = re.findall(r"[a-z]+|,", sentence.lower())
    return " ".join(LEXICON[w][0].upper() if w in LEXICON else re.sub("^an$", "a", w) for w in words)


def test_the_article_is_an_before_a_vowel_and_a_otherwise():
    sentences = [simple_prompt(s, i, split) for i, s in enumerate(SCENES) for split in SPLITS]
    assert not any(re.search(r"\ba [aeio]|\ban [^aeio]", s) for s in sentences)


def test_the_modules_judge_gallery_and_words_do_not_import_torch():
    code = "import sys, miniature.judge, miniature.gallery, miniature.words; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
