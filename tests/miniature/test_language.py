"""Broad sentences state their scene, reasoning sentences imply one attribute, and what is held out stays out of the training texts."""

import json
import re
from itertools import permutations
from pathlib import Path
from random import Random

import pytest

from miniature import rare_words
from miniature.broad import LONGEST, broad, broad_prompt, typo
from miniature.expressions import ALL, EXPRESSIONS, KINDS, mentions
from miniature.free_order import free
from miniature.gallery import Gallery
from miniature.prompts import FILES, development_prompts, reasoning_prompts, write, write_development
from miniature.rare_words import rare
from miniature.reasoning import BUILDS, IMPLIED_BY, PHRASES, WRAPS, implied, reasoning
from miniature.scenes import CATEGORIES, HELD_OUT, Scene, Thing, held_out, make
from miniature.sentences import FIRST, IMPLIED, MIX, ROOM, sentences
from miniature.synonyms import LEXICON as SYNONYMS
from miniature.synonyms import found
from miniature.text_builds import DEVELOPMENT, WIDE
from miniature.words import LEXICON, complex_prompt, keywords, read, simple_prompt
from sur_adapter.data.sentence_selection.held_out import read_held_out
from sur_adapter.data.sentence_selection.selection import SentencesConfig, collect, select
from sur_adapter.data.sentence_selection.word_edits import min_word_edits, normalise

BY_CATEGORY = {name.split("/")[1]: asked for name, asked in FILES.items()}
PROMPTS = Path(__file__).parents[2] / "prompts"
TEST = PROMPTS / "miniature"
SCENES = [make(6_000_000 + i) for i in range(3000)]
ATTRIBUTES = ("count", "color", "class", "pose")
ATTRIBUTE = {"colour": "color", "number": "count", "pose": "pose"}
GRAMMAR = "a an the of in on at to is has was that with by for and says from some sees be under not it no as like been"


@pytest.fixture(scope="module")
def corpus() -> list[dict]:
    return list(sentences(5000, 0))


@pytest.fixture(scope="module")
def reasoning_rows() -> list[dict]:
    return [json.loads(line) for name in FILES for line in (TEST / f"{name}.jsonl").read_text().splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def edits(a: list[str], b: list[str]) -> int:
    """Words to insert, delete or replace."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def gap_words(build: str) -> str:
    """The words of a build, each gap as one word."""
    return normalise(re.sub(r"\{(\w+)\}", lambda gap: f" gap{gap[1].lower().replace('_', 'x')} ", build))


def content(text: str) -> set[str]:
    return {re.sub(r"'?s$", "", w) for w in set(words(text)) - set(GRAMMAR.split())}


def scene_of(category: str, *things: tuple[str, str, str | None]) -> Scene:
    return Scene(0, category, tuple(Thing(*thing, 0, 0, 1) for thing in things))


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (scene_of("counting", ("circle", "green", None)), "1 green circle"),
        (scene_of("counting", *[("cross", "green", None)] * 3), "3 green crosses"),
        (scene_of("color", ("square", "blue", None), ("circle", "red", None)), "red circle, blue square"),
        (scene_of("action", ("robot", "green", "running")), "green robot, running"),
    ],
)
def test_keywords_are_one_canonical_prompt(scene, expected):
    assert keywords(scene) == expected


def test_the_same_seed_gives_the_same_sentence_and_another_seed_another():
    assert [broad(s, 1) for s in SCENES[:50]] == [broad(s, 1) for s in SCENES[:50]]
    assert [reasoning(s, 1) for s in SCENES[:50]] == [reasoning(s, 1) for s in SCENES[:50]]
    assert sum(broad(s, 1) != broad(s, 2) for s in SCENES[:50]) > 45
    assert broad_prompt(SCENES[0], 3) == broad(SCENES[0], 3)[1]
    assert [free(s, 1) for s in SCENES[:50]] == [free(s, 1) for s in SCENES[:50]]
    assert sum(free(s, 1) != free(s, 2) for s in SCENES[:50]) > 45
    assert list(sentences(20, 1)) == list(sentences(20, 1))


def broad_without_typo(scene: Scene) -> str | None:
    kind, sentence = broad(scene, 0)
    return None if kind == "broad/typo" else sentence


def test_a_broad_or_free_sentence_states_all_attributes_and_no_others():
    said = [(scene, sentence) for scene in SCENES for sentence in (broad_without_typo(scene), free(scene, 0)) if sentence]
    for scene, sentence in said:
        read, include = found(sentence), scene.include
        pairs = set(zip(read["class"], read["color"] * len(read["class"]), strict=False))
        if scene.category == "counting":
            assert set(read["count"]) == {include[0]["count"]} or (include[0]["count"] == 1 and not read["count"]), sentence
        assert {e["class"] for e in include} == set(read["class"]) and {e["color"] for e in include} == set(read["color"]), sentence
        assert {e["pose"] for e in include if "pose" in e} == set(read["pose"]), sentence
        assert {(e["class"], e["color"]) for e in include} <= pairs, sentence


def test_broad_sentences_are_short_and_of_every_kind_and_rarely_repeat():
    made = [broad(scene, 0) for scene in SCENES]
    lengths = [len(sentence.split()) for _, sentence in made]
    assert max(lengths) <= LONGEST and 8 < sum(lengths) / len(lengths) < 13
    names = "plain synonym request question passive negation two_sentences relative capitals typo"
    assert {kind for kind, _ in made} == {f"broad/{name}" for name in names.split()}
    assert len({sentence.lower() for _, sentence in made}) > 0.99 * len(made)


def test_attributes_of_free_sentences_come_in_every_order():
    places = {kind: re.compile(rf"\b(?:{'|'.join(word for word in SYNONYMS if SYNONYMS[word][0] == kind)})\b") for kind in ATTRIBUTES}
    for category, kinds in (("counting", ("count", "color", "class")), ("action", ("color", "class", "pose"))):
        orders = set()
        for scene in SCENES:
            text = free(scene, 0).lower()
            if scene.category == category and all(places[kind].search(text) for kind in kinds):
                orders.add(tuple(sorted(kinds, key=lambda kind: places[kind].search(text).start())))
        assert orders == set(permutations(kinds))


def test_articles_verbs_and_plurals_agree():
    for scene in SCENES:
        for sentence in (free(scene, 1), *(simple for _, simple in (broad(scene, 1), reasoning(scene, 1)))):
            if sentence != sentence.upper():
                assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [bcdfgjklmnpqrstvwxyz]|\b[Aa]n uni", sentence), sentence
            assert not re.search(r"\b(?:it|he|she) are\b|\bthey is\b|\bboxs\b|\bcrosss\b|[{}|]", sentence.lower()), sentence


def test_a_typo_changes_one_word_and_makes_no_other_word_of_the_world():
    rng, vocabulary = Random(0), {w for w in LEXICON if len(w) > 3}
    for scene in SCENES[:500]:
        before = simple_prompt(scene, 0)
        after = typo(before, rng)
        if after:
            changed = [(x, y) for x, y in zip(before.split(), after.split(), strict=True) if x != y]
            assert len(changed) == 1 and changed[0][1] not in vocabulary


def test_expressions_exist_for_each_value_and_a_quarter_is_held_out():
    assert {kind: len(values) for kind, values in EXPRESSIONS.items()} == {"colour": 8, "number": 5, "pose": 6}
    for values in EXPRESSIONS.values():
        for expressions in values.values():
            held = [e for e in expressions if e.held_out]
            assert len(expressions) >= 12 and 0.2 < len(held) / len(expressions) < 0.3
            assert {e.relative for e in held} == {True, False}
    forms = [form for e in ALL for form in (e.text, e.item) if form]
    assert len(set(forms)) == len(forms)


def test_near_expressions_share_a_word_with_a_text_one_of_their_value_and_far_ones_with_none():
    for kind, values in EXPRESSIONS.items():
        every = set().union(*(content(e.text) for e in ALL if e.kind == kind and not e.held_out))
        for expressions in values.values():
            own = set().union(*(content(e.text) for e in expressions if not e.held_out))
            for e in expressions:
                if e.held_out:
                    assert bool(content(e.text) & (own if e.relative else every)) == e.relative, (e, content(e.text) & every)


def test_no_expression_states_an_attribute():
    for e in ALL:
        for form in (e.text, e.item):
            stated = {LEXICON[w][0] for w in words(form) if w in LEXICON}
            assert not stated and not any(found(form).values()), form


@pytest.mark.parametrize("builds", ["train", "free", "test", "wide", "development"])
@pytest.mark.parametrize("expressions", ["text", "held_out"])
def test_a_reasoning_sentence_implies_one_attribute_and_states_the_others(expressions, builds):
    for scene in SCENES[:1200]:
        kind, sentence = reasoning(scene, 0, expressions, builds)
        kind = kind.removeprefix("reasoning/")
        (form,) = mentions(sentence)
        (expression,) = [e for e in ALL if form in (e.text.lower(), e.item.lower())]
        assert expression.kind == kind and expression.held_out == (expressions == "held_out")
        read, include = found(sentence), scene.include
        values = [e["color"] for e in include] if kind == "colour" else [include[0].get("pose") if kind == "pose" else include[0]["count"]]
        assert expression.value in values
        stated = {"color": {e["color"] for e in include}, "pose": {e["pose"] for e in include if "pose" in e}}
        stated |= {"class": {e["class"] for e in include}, "count": set(read["count"])}
        stated[ATTRIBUTE[kind]] = stated[ATTRIBUTE[kind]] - {expression.value} if kind == "colour" else set()
        assert {name: set(read[name]) for name in stated} == stated, sentence


def test_every_kind_of_attribute_can_be_asked_for_and_unknown_names_are_refused():
    assert {c: implied(make(0, c)) for c in CATEGORIES} == {
        "action": ["colour", "pose"], "color": ["colour"], "counting": ["colour", "number"],
    }  # fmt: skip
    assert {reasoning(scene, 0)[0] for scene in SCENES[:100]} == {f"reasoning/{kind}" for kind in KINDS}
    assert reasoning(make(0, "action"), 0, kind="pose")[0] == "reasoning/pose"
    with pytest.raises(ValueError, match="expressions are text, held_out"):
        reasoning(SCENES[0], 0, "unknown")
    with pytest.raises(ValueError, match="cannot imply 'pose': name one of colour, number"):
        reasoning(make(0, "counting"), 0, kind="pose")


def test_no_text_of_pictures_holds_an_expression():
    for scene in SCENES:
        texts = [complex_prompt(scene, 0), keywords(scene), broad_prompt(scene, 0)]
        texts += [simple_prompt(scene, 0, split) for split in ("train", "development", "test", "phrases")]
        assert not any(mentions(text) for text in texts)


def test_sentences_hold_no_held_out_expression_and_come_with_their_meaning(corpus):
    held_out = {form.lower() for e in ALL if e.held_out for form in (e.text, e.item) if form}
    for i, row in enumerate(corpus):
        style, _, implied = row["kind"].partition("/")
        scenes = [make(FIRST + i, category, known=True) for category in (IMPLIED_BY[implied] if style == "reasoning" else (None,))]
        assert (row["expected"], row["include"]) in [(keywords(scene), scene.include) for scene in scenes]
        assert not held_out & set(mentions(row["sentence"]))
    shares = {name: sum(row["kind"].startswith(name) for row in corpus) / len(corpus) for name in MIX}
    assert shares == pytest.approx(MIX, abs=0.03)
    reasoning_kinds = [row["kind"].partition("/")[2] for row in corpus if row["kind"].startswith("reasoning")]
    assert {kind: reasoning_kinds.count(kind) / len(reasoning_kinds) for kind in KINDS} == pytest.approx(IMPLIED, abs=0.03)


def test_sentences_refuse_an_unknown_mix_and_more_than_a_seed_has():
    with pytest.raises(ValueError, match="give shares of plain, broad, free, rare, reasoning"):
        next(sentences(1, 0, {"wide": 1.0}))
    with pytest.raises(ValueError, match="take another seed"):
        next(sentences(ROOM + 1))
    assert {row["kind"] for row in sentences(10, 0, {"plain": 1.0})} == {"plain"}


def test_the_reasoning_prompts_are_what_the_command_writes(reasoning_rows):
    assert [row for name in FILES for row in reasoning_prompts(name, 60)] == reasoning_rows
    assert len({row["id"] for row in reasoning_rows}) == len({row["prompt"] for row in reasoning_rows}) == 300
    for row in reasoning_rows:
        (form,) = mentions(row["prompt"])
        (expression,) = [e for e in ALL if form in (e.text.lower(), e.item.lower())]
        part = "text" if not expression.held_out else "near" if expression.relative else "far"
        wanted, kinds = BY_CATEGORY[row["category"]]
        assert part == wanted and expression.kind in kinds


@pytest.mark.parametrize("folder", ["miniature", "development"])
def test_the_committed_prompts_are_what_the_command_writes(folder, tmp_path):
    made = (write if folder == "miniature" else write_development)(tmp_path, 100)
    files = {file.relative_to(PROMPTS / folder) for file in (PROMPTS / folder).rglob("*.jsonl") if file.parent.name != "hand_written"}
    assert {file.relative_to(tmp_path) for file in made} == files and len(files) == (11 if folder == "miniature" else 6)
    for file in files:
        assert (tmp_path / file).read_text() == (PROMPTS / folder / file).read_text()
        rows = [json.loads(line) for line in (tmp_path / file).read_text().splitlines()]
        assert len({row["prompt"] for row in rows}) == len(rows) and all(row["template"] for row in rows)
        kinds = set().union(*(held_out(row["include"]) for row in rows))
        assert kinds == ({file.stem.removeprefix("combination_")} if "combination" in file.stem else set())


def test_no_text_only_sentence_and_no_picture_of_the_gallery_has_a_held_out_combination(corpus):
    gallery = Gallery(400)
    assert not any(held_out(row["include"]) for row in corpus)
    assert not any(held_out(include) for include in gallery.includes.values())
    assert not any(held_out(include) for i in range(400) if (include := read(gallery.prompt(i) or "")))
    assert set(HELD_OUT) == {kind for i in range(300) for kind in held_out(make(i).include)}


def test_no_training_sentence_is_within_four_word_edits_of_a_reasoning_prompt(corpus, reasoning_rows):
    trained = [(words(row["sentence"]), set(words(row["sentence"]))) for row in corpus]
    for row in reasoning_rows:
        asked = words(row["prompt"])
        # 4 edits change at most 4 of the longer one's words, so only sentences with the others in common can be so near
        near = [t for t, bag in trained if abs(len(t) - len(asked)) < 4 and len(set(asked) - bag) < 4]
        assert all(edits(asked, t) >= 4 for t in near), row["prompt"]


def test_no_selected_sentence_is_within_four_word_edits_of_any_prompt_and_few_reasoning_ones_have_to_be_dropped():
    held_out, config = read_held_out((str(PROMPTS),)), SentencesConfig({"miniature": {"count": 10_000}})
    table = select(collect(config, Path()), held_out, config)
    kept = table[table.keep]
    assert min_word_edits(list(map(normalise, kept.sentence)), list(map(normalise, held_out)), 3).min() == 4
    implied = table[table.kind.str.startswith("reasoning")]
    assert len(implied) > 3000 and (implied.reason == "near_held_out").sum() <= 3


def test_wide_builds_are_many_and_development_builds_differ_from_them_by_four_word_edits():
    assert WIDE.keys() == DEVELOPMENT.keys()
    for key, builds in WIDE.items():
        assert len(set(builds)) == len(builds) >= (80 if key[0] == "number" else 60) and len(set(DEVELOPMENT[key])) == 8
        assert min_word_edits(list(map(gap_words, DEVELOPMENT[key])), list(map(gap_words, builds)), 3).min() == 4


def test_test_builds_that_imply_differ_from_all_others_by_four_word_edits():
    for key, builds in BUILDS["test"].items():
        held = [wrap.replace("{x}", phrase) for wrap in WRAPS for phrase in PHRASES[key]]
        others = [*BUILDS["train"][key], *BUILDS["wide"][key], *BUILDS["development"][key], *held]
        assert min_word_edits(list(map(gap_words, builds)), list(map(gap_words, others)), 3).min() == 4


def test_development_prompts_imply_their_kind_and_are_not_trained_on():
    trained = {normalise(row["sentence"]) for row in sentences(10_000, 0)}
    for kind in KINDS:
        rows = development_prompts(kind, 40)
        assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 40
        assert not trained & {normalise(row["prompt"]) for row in rows}
        for row in rows:
            (form,) = mentions(row["prompt"])
            (expression,) = [e for e in ALL if form in (e.text.lower(), e.item.lower())]
            assert (expression.kind, expression.held_out) == (kind, False)
    with pytest.raises(ValueError, match="imply one of colour, number, pose"):
        development_prompts("size", 1)


def test_rare_words_name_one_thing_each_and_none_is_a_word_of_the_other_grammars():
    tables = (
        rare_words.COLORS,
        rare_words.NUMBERS,
        rare_words.NOUNS,
        {f"{pose} {i}": forms[i] for pose, forms in rare_words.DOING.items() for i in (0, 1)},
    )
    table = [word for names in tables for words in names.values() for word in words.split(", ")]
    assert len(set(table)) == len(table) > 250
    assert not set(table) & set(SYNONYMS) and not any(mentions(word) for word in table)


def test_a_rare_word_is_one_for_what_is_seen_in_its_scene(monkeypatch):
    monkeypatch.setattr(rare_words, "TYPOS", 0)
    poses = {pose: ", ".join(forms) for pose, forms in rare_words.DOING.items()}
    tables = (("color", rare_words.COLORS), ("class", rare_words.NOUNS), ("pose", poses))
    meaning = {word.lower(): (kind, value) for kind, table in tables for value, words in table.items() for word in words.split(", ")}
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(meaning, key=len, reverse=True)))})(?![\w'-])")
    seen = set()
    for scene in SCENES:
        text = rare(scene, 0).lower().replace("colour", "color").replace("a child's drawing", "").replace("by a child", "")
        for word in pattern.findall(text):
            kind, value = meaning[word]
            assert value in {entry.get(kind) for entry in scene.include}, (word, text)
            seen.add(word)
    assert len(seen) > 0.9 * len(meaning)


def test_a_rare_sentence_keeps_the_words_that_are_not_exchanged(monkeypatch):
    monkeypatch.setattr(rare_words, "TYPOS", 0)  # a typing error can leave a part of a word that means another
    kept = 0
    for scene in SCENES[:900]:
        sentence = rare(scene, 0)
        assert sentence == rare(scene, 0) and 1 < len(sentence.split()) <= 28 and not re.search(r"[{}|]", sentence)
        stated, include = found(sentence), scene.include
        assert set(stated["class"]) <= {e["class"] for e in include} and set(stated["pose"]) <= {e.get("pose") for e in include}
        kept += bool(stated["class"])
    assert 0.3 < kept / 900 < 0.8  # the others have rare nouns
