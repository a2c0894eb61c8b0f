"""Scenes from seeds, and the prompts that describe them."""

import re
import subprocess
import sys
from functools import partial

import pytest

from miniature.broad import broad_prompt
from miniature.free_order import free
from miniature.judge import agree
from miniature.phrases import BEFORE_THINGS, CLOSINGS, SENTENCES, THINGS
from miniature.rare_words import rare
from miniature.reasoning import reasoning
from miniature.scenes import CATEGORIES, COLORS, HELD_OUT, held_out, make
from miniature.templates import TEMPLATES
from miniature.words import LEXICON, QUALITY, complex_prompt, read, simple_prompt
from sur_adapter.data.sentence_selection.word_edits import min_word_edits, normalise

SCENES = [make(seed) for seed in range(1500)]
SPLITS = ("train", "development", "test", "phrases")


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


def test_development_sentences_have_new_templates_but_no_new_words():
    for splits in TEMPLATES.values():
        assert not set(splits["train"]) & set(splits["development"])
        assert min(len(splits["train"]), 2 * len(splits["development"])) >= 20
    by_split = {split: {simple_prompt(make(i), i, split) for i in range(6000)} for split in ("train", "development")}
    words = {split: set(" ".join(sentences).lower().replace(",", "").split()) for split, sentences in by_split.items()}
    assert words["development"] <= words["train"]
    assert not by_split["train"] & by_split["development"]


def abstract(text: str) -> str:
    """The words of a sentence or template, with each word or gap that names what is seen replaced by its kind."""
    for gap, kinds in GAPS.items():
        text = text.replace("{" + gap + "}", f" {kinds} ")
    found = [LEXICON[w][0] if w in LEXICON else w for w in normalise(text).split()]
    return " ".join("a" if w == "an" else w for w in found)


GAPS = {
    "np": "count color class", "n": "count", "nn": "count", "s": "class", "s1": "class", "c": "color", "are": "are", "they": "they",
    "have": "have", "a": "a color class", "b": "a color class", "t1": "class", "t2": "class", "t1_a": "a class", "t2_a": "a class",
    "c1": "color", "c2": "color", "t": "class", "t_a": "a class", "doing": "pose", "does": "pose",
}  # fmt: skip


def phrases_of(category: str) -> set[str]:
    """All templates that `phrase` can return."""
    be = "{are}" if category == "counting" else "is"
    openings = {opening.replace("{be}", be).replace("{}", thing) for opening in BEFORE_THINGS for thing in THINGS[category]}
    return {text + closing for text in openings | set(SENTENCES[category]) for closing in CLOSINGS}


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_test_template_is_four_word_edits_from_every_build_that_anything_is_trained_on(category):
    templates = list(map(abstract, TEMPLATES[category]["test"]))
    assert len(set(templates)) == 12
    builds = set(map(abstract, {*TEMPLATES[category]["train"], *TEMPLATES[category]["development"], *phrases_of(category)}))
    assert len(builds) > (2000 if category == "counting" else 5000)
    assert min_word_edits(templates, list(builds), 3).min() == 4


def test_every_test_template_is_four_word_edits_from_what_the_grammars_of_text_only_sentences_say():
    scenes = [make(6_000_000 + i) for i in range(4000)]
    said = {abstract(text) for s in scenes for text in (broad_prompt(s, 0), free(s, 0), rare(s, 0), reasoning(s, 0, builds="wide")[1])}
    assert len(said) > 12_000
    templates = [abstract(template) for splits in TEMPLATES.values() for template in splits["test"]]
    assert min_word_edits(templates, list(said), 3).min() == 4


def test_no_test_template_is_producible_by_another_split():
    sentences = {split: {abstract(simple_prompt(s, i, split)) for i, s in enumerate(SCENES)} for split in SPLITS}
    assert not sentences["test"] & (sentences["train"] | sentences["development"] | sentences["phrases"])


def test_held_out_combinations_are_in_no_known_scene_and_each_of_their_parts_is():
    known = [make(i, known=True) for i in range(6000)]
    assert not any(held_out(s.include) for s in known)
    assert {kind for i in range(2000) for kind in held_out(make(i).include)} == set(HELD_OUT)
    parts = {(e["color"], "") for s in known for e in s.include} | {(e["class"], "") for s in known for e in s.include}
    parts |= {(e["count"], "") for s in known for e in s.include} | {(e["pose"], "") for s in known for e in s.include if "pose" in e}
    assert {(part, "") for combinations in HELD_OUT.values() for pair in combinations for part in pair} <= parts
    assert [make(i, known=True) for i in range(300) if not held_out(make(i).include)] == [
        make(i) for i in range(300) if not held_out(make(i).include)
    ]


def test_phrases_have_the_words_of_the_development_split_in_thousands_of_other_templates():
    scenes = [make(i) for i in range(6000)]
    by_split = {split: [simple_prompt(s, i, split) for i, s in enumerate(scenes)] for split in ("phrases", "development")}
    words = {split: set(" ".join(sentences).lower().replace(",", "").split()) for split, sentences in by_split.items()}
    assert words["development"] <= words["phrases"]
    templates = {split: set(map(template, sentences)) for split, sentences in by_split.items()}
    assert len(templates["phrases"]) > 3000 and len(templates["development"]) > 30
    assert not templates["phrases"] & templates["development"]


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
