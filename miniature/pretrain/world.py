"""Draw the pictures once; every later stage reads them.

`images.npy` uint8 [N, 64, 64, 3], `scenes.jsonl` one {"seed", "category", "scattered"} a line: the scene is made from them again.
Training scenes have seeds below TEST_SEED; whatever is tested starts there. Two worlds are drawn: `scattered`, where
counted things lie anywhere, for what learns to see and to read; `arranged`, where they lie as on dice, for what draws.
"""

import json
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from miniature.broad import broad_prompt
from miniature.scenes import Scene, make
from miniature.words import complex_prompt, simple_prompt

TEST_SEED = 1_000_000


def main(out: Path, *, settings: dict) -> None:
    shares, scattered = settings["mix"], settings["scattered"]
    categories = Random(settings["seed"]).choices(list(shares), list(shares.values()), k=settings["count"])
    scenes = [make(seed, category, scattered) for seed, category in enumerate(categories)]
    out.mkdir(parents=True, exist_ok=True)
    images = np.stack([np.asarray(s.draw()) for s in tqdm(scenes, desc="world", disable=None)])
    np.save(out / "images.npy", images)
    lines = (json.dumps({"seed": s.seed, "category": s.category, "scattered": scattered}) for s in scenes)
    (out / "scenes.jsonl").write_text("\n".join(lines) + "\n")


class World:
    """The drawn pictures and their scenes, and batches of them."""

    def __init__(self, path: Path):
        self.images = np.load(path / "images.npy", mmap_mode="r")
        rows = (json.loads(line) for line in (path / "scenes.jsonl").read_text().splitlines())
        self.scenes: list[Scene] = [make(**row) for row in rows]

    def pixels(self, rows: np.ndarray) -> Tensor:
        """[B, 3, 64, 64], -1 … 1."""
        return torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1

    @cached_property
    def keys(self) -> list[str]:
        """What each scene shows, as text: equal keys, equal content."""
        return [json.dumps(s.include) for s in self.scenes]


STYLES = {"complex": complex_prompt, "simple": simple_prompt, "broad": broad_prompt}


def texts(scenes: list[Scene], style: str, seed: int, split: str = "train") -> list[str]:
    """One prompt for each scene. style: "complex" (keywords), "simple" (templates of `split`), "broad" (broad.py)."""
    if style == "simple":
        return [simple_prompt(scene, seed, split) for scene in scenes]
    return [STYLES[style](scene, seed) for scene in scenes]


def mixed_texts(scenes: list[Scene], seed: int, shares: dict[str, float]) -> list[str]:
    """One prompt for each scene, in a style by chance. shares: style -> share of the prompts."""
    styles = Random(seed).choices(list(shares), list(shares.values()), k=len(scenes))
    return [STYLES[style](scene, seed) for scene, style in zip(scenes, styles, strict=True)]


def test_scenes(category: str, n: int) -> list[Scene]:
    """n scenes of a category that no model was trained on."""
    return [make(seed, category) for seed in range(TEST_SEED, TEST_SEED + n)]
