"""The miniature's test prompts: plain sentences with what must be seen, of scenes that nothing was trained on.

Seeds: training draws below 24,000, the models' card from 1,000,000, the gallery from 2,000,000, these from 3,000,000.
Sentence templates are those of the split `test`, so no sentence here was ever trained on either.
"""

import json
from itertools import count
from pathlib import Path

from miniature.scenes import CATEGORIES, make
from miniature.words import complex_prompt, simple_prompt

FIRST = 3_000_000  # the first seed; a multiple of the number of categories


def prompts(category: str, number: int) -> list[dict]:
    """`number` prompts of a category, no sentence twice, in the order of their seeds."""
    found = {}
    for seed in count(FIRST + CATEGORIES.index(category), len(CATEGORIES)):
        if len(found) == number:
            break
        scene = make(seed)
        words = {"prompt": simple_prompt(scene, seed, split="test"), "complex_prompt": complex_prompt(scene, seed)}
        found.setdefault(words["prompt"], words | {"include": scene.include})
    return [{"id": f"{category}-{i:03d}", "category": category, **words} for i, words in enumerate(found.values())]


def write(folder: Path, number: int) -> list[Path]:
    """One file a category, one prompt a line."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{category}.jsonl" for category in CATEGORIES]
    for file in files:
        file.write_text("".join(json.dumps(p) + "\n" for p in prompts(file.stem, number)), encoding="utf-8")
    return files
