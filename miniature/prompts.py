"""The miniature's prompts that are drawn: sentences with what must be seen, of scenes that nothing was trained on.

`test` (prompts/miniature) is for the figures of a release. `development` (prompts/development) is for every choice. Plain ones, a file a
category, are in the folder itself: their templates are those of the split with the name of the set. Sub-folders are sets of their own:

    reasoning     an attribute is implied by an expression that training texts hold, in a new build
    held_out      an attribute is implied by an expression that only the LLM has read (test alone): held_out_near shares a key word with
                  those of training, held_out_far does not
    combinations  a combination of scenes.HELD_OUT, which the adapter was never trained on (test alone); scenes of all others have none
    hand_written  written sentence by sentence (development alone; not made here)

A prompt has its `template`: prompts of one template are alike, so that intervals must know it.

Seeds: training draws below 24,000, the models' card from 1,000,000, the gallery from 2,000,000, test prompts from 3,000,000 and from
4,000,000, text-only sentences from 5,000,000, development prompts from 9,000,000.
"""

import json
from itertools import count
from pathlib import Path

from miniature.reasoning import IMPLIED_BY, reasoning_with_build
from miniature.scenes import CATEGORIES, HELD_OUT, Scene, held_out, make
from miniature.words import complex_prompt, templated_prompt

FIRST = 3_000_000  # the first seed of plain test prompts; a multiple of the number of categories
FIRST_COMBINATIONS = 3_500_000  # the first seed of test prompts with held-out combinations
FIRST_REASONING, ROOM = 4_000_000, 100_000  # the first seed of the first file of reasoning; seeds between two files
FIRST_DEVELOPMENT = 9_000_000  # the first seed of the first kind; ROOM between two; the plain ones follow
APART = 60  # prompts a file of a sub-folder
SCENES = {kind: tuple(c for c in CATEGORIES if c in categories) for kind, categories in IMPLIED_BY.items()}  # what can imply it
FILES = {  # sub-folder and file: expressions, kinds in turn
    "reasoning/reasoning_colour": ("text", ("colour",)),
    "reasoning/reasoning_number": ("text", ("number",)),
    "reasoning/reasoning_pose": ("text", ("pose",)),
    "held_out/held_out_near": ("near", tuple(SCENES)),
    "held_out/held_out_far": ("far", tuple(SCENES)),
}


def prompts(category: str, number: int, split: str = "test") -> list[dict]:
    """`number` plain prompts of a category, no sentence twice, in the order of their seeds. split: "test" | "development"."""
    first = FIRST if split == "test" else FIRST_DEVELOPMENT + ROOM * len(SCENES)
    found: dict[str, dict] = {}
    for seed in count(first + CATEGORIES.index(category), len(CATEGORIES)):
        if len(found) == number:
            break
        scene = make(seed, known=True)
        _keep(found, scene, *templated_prompt(scene, seed, split))
    return _numbered(category, found)


def combination_prompts(kind: str, number: int) -> list[dict]:
    """`number` plain test prompts of scenes with a held-out combination of `kind`, a key of HELD_OUT, and of no other kind."""
    found: dict[str, dict] = {}
    for seed in count(FIRST_COMBINATIONS + ROOM * list(HELD_OUT).index(kind)):
        if len(found) == number:
            break
        if held_out((scene := make(seed)).include) == {kind}:
            _keep(found, scene, *templated_prompt(scene, seed, "test"))
    return _numbered(f"combination_{kind}", found)


def reasoning_prompts(name: str, number: int) -> list[dict]:
    """`number` test prompts of one of FILES, no sentence twice; kinds of attribute take turns, and so do the categories of scenes."""
    expressions, kinds = FILES[name]
    found: dict[str, dict] = {}
    for seed in count(FIRST_REASONING + ROOM * list(FILES).index(name)):
        if len(found) == number:
            break
        kind = kinds[len(found) % len(kinds)]
        categories = SCENES[kind]
        scene = make(seed, categories[len(found) // len(kinds) % len(categories)], known=True)
        _, sentence, build = reasoning_with_build(scene, seed, expressions, "test", kind)
        _keep(found, scene, build, sentence)
    return _numbered(name.split("/")[1], found)


def development_prompts(kind: str, number: int) -> list[dict]:
    """`number` development prompts that imply a "colour", "number" or "pose", in builds `development`.

    Expressions are those of training. No sentence occurs twice, categories take turns. Raises ValueError for another kind.
    """
    if kind not in SCENES:
        raise ValueError(f"kind {kind!r}: development prompts imply one of {', '.join(SCENES)}")
    found: dict[str, dict] = {}
    for seed in count(FIRST_DEVELOPMENT + ROOM * list(SCENES).index(kind)):
        if len(found) == number:
            break
        scene = make(seed, SCENES[kind][len(found) % len(SCENES[kind])], known=True)
        _, sentence, build = reasoning_with_build(scene, seed, builds="development", kind=kind)
        _keep(found, scene, build, sentence)
    return _numbered(f"reasoning_{kind}", found)


def _keep(found: dict[str, dict], scene: Scene, template: str, sentence: str) -> None:
    keyword_prompt = complex_prompt(scene, scene.seed)
    found.setdefault(sentence, {"prompt": sentence, "complex_prompt": keyword_prompt, "include": scene.include, "template": template})


def _numbered(category: str, found: dict[str, dict]) -> list[dict]:
    return [{"id": f"{category}-{i:03d}", "category": category, **words} for i, words in enumerate(found.values())]


def write(folder: Path, number: int, apart: int = APART) -> list[Path]:
    """Writes the test prompts, one a line: `number` a plain file, `apart` a file of a sub-folder. Returns the files."""
    made = {f"{category}": prompts(category, number) for category in CATEGORIES}
    made |= {name: reasoning_prompts(name, apart) for name in FILES}
    made |= {f"combinations/combination_{kind}": combination_prompts(kind, apart) for kind in HELD_OUT}
    return _write_lines(folder, made)


def write_development(folder: Path, number: int, apart: int = APART) -> list[Path]:
    """Writes the development prompts, as `write` does; hand-written ones in the folder stay as they are. Returns the files."""
    made = {category: prompts(category, number, "development") for category in CATEGORIES}
    return _write_lines(folder, made | {f"reasoning/reasoning_{kind}": development_prompts(kind, apart) for kind in SCENES})


def _write_lines(folder: Path, made: dict[str, list[dict]]) -> list[Path]:
    files = [folder / f"{name}.jsonl" for name in made]
    for file, rows in zip(files, made.values(), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files
