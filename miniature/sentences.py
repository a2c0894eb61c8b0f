"""Sentences with neither picture nor caption, for a text-only teacher: with what each means.

Scenes have seeds from 5,000,000 + seed × 1,000,000, so that none is one of training, card, gallery or test (see prompts.py). No
held-out expression, no held-out combination (scenes.HELD_OUT) and no build of `test` or `development` occurs.
"""

from collections.abc import Iterator
from random import Random

from miniature.broad import broad
from miniature.free_order import free
from miniature.rare_words import rare
from miniature.reasoning import IMPLIED_BY, reasoning
from miniature.scenes import Scene, make
from miniature.words import keywords, simple_prompt

FIRST, ROOM = 5_000_000, 1_000_000  # the first scene of seed 0; scenes of a seed
MIX = {"plain": 0.04, "broad": 0.20, "free": 0.12, "rare": 0.10, "reasoning": 0.54}
IMPLIED = {"colour": 0.42, "number": 0.34, "pose": 0.24}  # of the reasoning sentences; colours and numbers are the hardest to learn


def sentences(count: int, seed: int = 0, mix: dict[str, float] = MIX) -> Iterator[dict]:
    """`count` sentences, one a scene: `sentence`, `kind` ("broad/request"), `expected` (keywords of the scene) and `include`.

    mix: the shares of names of MIX. Raises ValueError for more sentences than a seed has scenes, and for another name or no positive
    share.
    """
    if not 0 <= count <= ROOM or seed < 0:
        raise ValueError(f"count {count}, seed {seed}: count is from 0 to {ROOM}, seed from 0; take another seed for more sentences")
    if not set(mix) <= set(MIX) or min(mix.values(), default=0) < 0 or not sum(mix.values()):
        raise ValueError(f"mix {mix}: give shares of {', '.join(MIX)}, none negative, one at least positive")
    rng = Random(f"sentences {seed}")
    for number in range(FIRST + seed * ROOM, FIRST + seed * ROOM + count):
        (part,) = rng.choices(list(mix), mix.values())
        implies = rng.choices(list(IMPLIED), IMPLIED.values())[0] if part == "reasoning" else None
        scene = make(number, rng.choice(IMPLIED_BY[implies]) if implies else None, known=True)
        kind, sentence = reasoning(scene, seed, builds="wide", kind=implies) if implies else _SPEAKERS[part](scene, seed)
        yield {"sentence": sentence, "kind": kind, "expected": keywords(scene), "include": scene.include}


def _plain(scene: Scene, seed: int) -> tuple[str, str]:
    split = Random(f"plain {seed} {scene.seed}").choice(("train", "phrases"))
    return "plain", simple_prompt(scene, seed, split)


def _free(scene: Scene, seed: int) -> tuple[str, str]:
    return "free", free(scene, seed)


def _rare(scene: Scene, seed: int) -> tuple[str, str]:
    return "rare", rare(scene, seed)


_SPEAKERS = {"plain": _plain, "broad": broad, "free": _free, "rare": _rare}
