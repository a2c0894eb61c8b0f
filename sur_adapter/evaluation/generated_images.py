"""Reads the images of the arms, and checks that all arms have the same prompts and seeds."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sur_adapter.generation.arms import ARMS
from sur_adapter.io.shards import read_table, read_tar

ImageKey = tuple[str, str, int]  # arm, prompt id, seed


def generated_arms(images: Path) -> list[str]:
    """Lists the arms in the folder of images. Raises FileNotFoundError if one of the two that are compared is missing."""
    arms = [arm for arm in ARMS if (images / arm).is_dir()]
    for arm in ("baseline", "adapter"):
        if arm not in arms:
            raise FileNotFoundError(f"{images / arm} is missing: generate that arm first (`dvc repro`)")
    return arms


def pipeline_texts(images: Path, arms: list[str]) -> dict[tuple[str, str], str]:
    """Returns (arm, prompt id) -> the text that the pipeline got."""
    return {(arm, row.id): row.text for arm in arms for row in read_table(images / arm / "prompts.parquet").itertuples()}


def read_images(images: Path, arms: list[str]) -> Iterator[tuple[ImageKey, bytes]]:
    """Yields ((arm, prompt id, seed), file bytes) of every image of the arms."""
    for arm in arms:
        for key, _, data in read_tar(images / arm):
            name, dash, seed = key.rpartition("-")
            if not dash or not seed.isdigit():
                raise ValueError(f"{images / arm} has an image named {key!r}: expected the prompt's id, a hyphen, a number")
            yield (arm, name, int(seed)), data


def check_same_images(table: pd.DataFrame, arms: list[str], images: Path) -> None:
    """Raises ValueError if arms differ in prompts or seeds: their difference would be chance."""
    keys = {arm: set(zip(rows.id, rows.seed, strict=True)) for arm, rows in table.groupby("arm")} if len(table) else {}
    for arm in arms:
        unpaired = keys.get(arm, set()) ^ keys.get("baseline", set())
        if unpaired or arm not in keys:
            name, seed = min(unpaired, default=("all", 0))
            raise ValueError(f"{images / arm} and {images / 'baseline'} hold different images ({name}, seed {seed}): use the same prompts")
    if table.groupby("id").seed.nunique().nunique() > 1:
        raise ValueError(f"{images} holds more seeds for some prompts than for others: remove it and run `dvc repro`")
