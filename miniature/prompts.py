"""The miniature's test prompts: sentences with what must be seen, of scenes that nothing was trained on.

Plain ones, a file a category, in the folder itself: their templates are those of the split `test`, so no sentence was ever trained on.
Ones that imply an attribute are in two sub-folders: `reasoning` has expressions that training texts hold, in new builds; `held_out` has
expressions that only the LLM has read (held_out_near shares a key word with those of training, held_out_far does not).

Seeds: training draws below 24,000, the models' card from 1,000,000, the gallery from 2,000,000, these from 3,000,000 and from 4,000,000,
text-only sentences from 5,000,000, development prompts, which no committed file holds, from 9,000,000.
"""

import json
from itertools import count
from pathlib import Path

from miniature.reasoning import IMPLIED_BY, reasoning
from miniature.scenes import CATEGORIES, make
from miniature.words import complex_prompt, simple_prompt

FIRST = 3_000_000  # the first seed; a multiple of the number of categories
FIRST_REASONING, ROOM = 4_000_000, 100_000  # the first seed of the first file of reasoning; seeds between two files
FIRST_DEVELOPMENT = 9_000_000  # the first seed of the first kind; ROOM between two; the plain ones follow
REASONING = 60  # prompts a file of these
SCENES = {kind: tuple(c for c in CATEGORIES if c in categories) for kind, categories in IMPLIED_BY.items()}  # what can imply it
FILES = {  # sub-folder and file: expressions, kinds in turn
    "reasoning/reasoning_colour": ("text", ("colour",)),
    "reasoning/reasoning_number": ("text", ("number",)),
    "reasoning/reasoning_pose": ("text", ("pose",)),
    "held_out/held_out_near": ("near", tuple(SCENES)),
    "held_out/held_out_far": ("far", tuple(SCENES)),
}


def prompts(category: str, number: int, first: int = FIRST, split: str = "test") -> list[dict]:
    """`number` prompts of a category, no sentence twice, in the order of their seeds. first: the first seed; split: of the templates."""
    found = {}
    for seed in count(first + CATEGORIES.index(category), len(CATEGORIES)):
        if len(found) == number:
            break
        scene = make(seed)
        _keep(found, scene, simple_prompt(scene, seed, split=split))
    return _numbered(category, found)


def reasoning_prompts(name: str, number: int) -> list[dict]:
    """`number` prompts of one of FILES, no sentence twice; kinds of attribute take turns, and so do the categories of scenes."""
    expressions, kinds = FILES[name]
    found = {}
    for seed in count(FIRST_REASONING + ROOM * list(FILES).index(name)):
        if len(found) == number:
            break
        kind = kinds[len(found) % len(kinds)]
        categories = SCENES[kind]
        scene = make(seed, categories[len(found) // len(kinds) % len(categories)])
        _keep(found, scene, reasoning(scene, seed, expressions, builds="test", kind=kind)[1])
    return _numbered(name.split("/")[1], found)


def development_prompts(kind: str, number: int) -> list[dict]:
    """`number` prompts that imply a "colour", "number" or "pose" in builds `development`: to develop builds without the test prompts.

    Expressions are those of training. No sentence occurs twice, categories take turns. Raises ValueError for another kind.
    """
    if kind not in SCENES:
        raise ValueError(f"kind {kind!r}: development prompts imply one of {', '.join(SCENES)}")
    found = {}
    for seed in count(FIRST_DEVELOPMENT + ROOM * list(SCENES).index(kind)):
        if len(found) == number:
            break
        scene = make(seed, SCENES[kind][len(found) % len(SCENES[kind])])
        _keep(found, scene, reasoning(scene, seed, builds="development", kind=kind)[1])
    return _numbered(f"reasoning_{kind}", found)


def _keep(found, scene, sentence):
    found.setdefault(sentence, {"prompt": sentence, "complex_prompt": complex_prompt(scene, scene.seed), "include": scene.include})


def _numbered(category, found):
    return [{"id": f"{category}-{i:03d}", "category": category, **words} for i, words in enumerate(found.values())]


def write(folder: Path, number: int, implied: int = REASONING) -> list[Path]:
    """One file a category, one prompt a line: `number` a plain file, `implied` a file in the sub-folders."""
    made = {folder / f"{category}.jsonl": prompts(category, number) for category in CATEGORIES}
    made |= {folder / f"{name}.jsonl": reasoning_prompts(name, implied) for name in FILES}
    return _write_lines(made)


def write_development(folder: Path, number: int, hand_written: Path) -> list[Path]:
    """Development prompts, laid out as the test prompts are: `number` a file, so that settings can be compared without the test prompts.

    Plain ones have the templates of training. hand_written: folder of *.jsonl, of which each gives its first prompts. Raises
    FileNotFoundError for a folder without them.
    """
    first = FIRST_DEVELOPMENT + ROOM * len(SCENES)
    made = {folder / f"{category}.jsonl": prompts(category, number, first, "train") for category in CATEGORIES}
    made |= {folder / f"reasoning/reasoning_{kind}.jsonl": development_prompts(kind, number) for kind in SCENES}
    files = sorted(hand_written.glob("*.jsonl"))
    if not files:
        raise FileNotFoundError(f"{hand_written} holds no *.jsonl of prompts: name a folder such as prompts/miniature/hand_written")
    for file in files:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        made[folder / "hand_written" / file.name] = rows[:number]
    return _write_lines(made)


def _write_lines(made: dict[Path, list[dict]]) -> list[Path]:
    for file, rows in made.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(p) + "\n" for p in rows), encoding="utf-8")
    return list(made)
