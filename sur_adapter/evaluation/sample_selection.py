"""Selects the images that the report shows and the pairs that people vote on."""

from random import Random

import pandas as pd

Key = tuple[str, int]  # prompt id, seed


def select_samples(judgements: pd.DataFrame, seed: int = 0, per_category: int = 2) -> dict[str, list[Key]]:
    """Selects the samples to show. Returns the keys of "random", "best" and "worst": `per_category` of each category, one per prompt.

    best, worst: by adapter − baseline of `shown`, then by whether the adapter's image is right, then by the difference in CLIP score.
    """
    wide = judgements.set_index(["category", "id", "seed", "arm"])[["shown", "clip_score"]].unstack("arm")
    gain = pd.DataFrame({"shown": 0.0, "clip_score": 0.0}, index=wide.index)
    for column in ("shown", "clip_score"):
        if judgements[column].notna().any():
            gain[column] = wide[column]["adapter"] - wide[column]["baseline"]
            gain[f"{column}_adapter"] = wide[column]["adapter"]
    order = [column for column in ("shown", "shown_adapter", "clip_score") if column in gain]
    samples: dict[str, list[Key]] = {"random": [], "best": [], "worst": []}
    for category in sorted(gain.index.unique("category")):
        ranked = gain.loc[category].sort_values([*order, "id", "seed"], kind="stable")
        keys = [(str(name), int(number)) for name, number in ranked.index]
        samples["worst"] += first_per_prompt(keys)[:per_category]
        samples["best"] += first_per_prompt(keys[::-1])[:per_category]
        samples["random"] += shuffled(keys, f"{seed} {category}")[:per_category]
    return samples


def sample_pairs(judgements: pd.DataFrame, per_category: int, seed: int = 0) -> list[Key]:
    """Selects the pairs to vote on: `per_category` random prompts of each category with one random seed each, categories mixed."""
    pairs = []
    for category, rows in judgements.groupby("category"):
        keys = [(str(name), int(number)) for name, number in zip(rows.id, rows.seed, strict=True)]
        pairs += shuffled(sorted(set(keys)), f"vote {seed} {category}")[:per_category]
    Random(f"vote {seed}").shuffle(pairs)
    return pairs


def shuffled(keys: list[Key], seed: str) -> list[Key]:
    """Returns one key per prompt, in a random order that depends on the seed alone: a longer selection begins with the shorter one."""
    keys = sorted(keys)
    Random(seed).shuffle(keys)
    return first_per_prompt(keys)


def first_per_prompt(keys: list[Key]) -> list[Key]:
    """Returns the first key of each prompt."""
    first: dict[str, int] = {}
    for name, number in keys:
        first.setdefault(name, number)
    return list(first.items())
