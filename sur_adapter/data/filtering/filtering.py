"""Selects the pairs to train on, one reason for each row that is dropped, and assigns splits by near-duplicate group."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd

from sur_adapter.data.filtering.hamming import close_pairs, connected_groups, unique_hashes, unpack_hashes
from sur_adapter.data.filtering.minhash import near_equal_prompts
from sur_adapter.io.schema import assign_split, image_ids
from sur_adapter.io.text import did_you_mean

SPLITS = ("test", "validation", "train")  # a group whose frozen ids have several splits takes the first of these


@dataclass(frozen=True)
class FilterConfig:
    """Section `filter` of params.yaml.

    min_side: pixels of the shorter side. allowed_nsfw_levels: levels of the source that are kept; rows without a level are kept too.
    duplicate_bits: images whose perceptual hashes differ in at most this many bits are near duplicates. prompt_overlap: prompts that share
    at least this part of their words (Jaccard) are one group; null: only prompts of equal words. validation, test: shares of these splits.
    min_scores: score -> the lowest value that is kept; in params.yaml each score is a key of the section itself.
    """

    min_side: int = 0
    allowed_nsfw_levels: tuple[str, ...] = ("None",)
    duplicate_bits: int = 0
    prompt_overlap: float | None = None
    validation: float = 0.05
    test: float = 0.05
    min_scores: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("min_side", "duplicate_bits"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a whole number, 0 or more")
        if self.prompt_overlap is not None and not 0.5 <= self.prompt_overlap <= 1:
            raise ValueError(f"prompt_overlap is {self.prompt_overlap}: give a share of common words from 0.5 to 1, or null")
        for name in ("validation", "test"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")
        if self.validation + self.test > 1:
            raise ValueError(f"validation is {self.validation} and test {self.test}: together they may be at most 1")


def nest_min_scores(values: Mapping | None, scores: Iterable[str]) -> Mapping | None:
    """Turns the section `filter`, where each score is a key of its own, into the fields of `FilterConfig`.

    scores: names of the existing scores. Raises ValueError for a key that is neither a rule nor a score, or a threshold that is no number.
    """
    if not isinstance(values, Mapping):
        return values
    rules, scores = [rule.name for rule in fields(FilterConfig) if rule.name != "min_scores"], list(scores)
    known = [*rules, *scores]
    for key, value in values.items():
        if key not in known:
            raise ValueError(
                f"params.yaml: filter.{key} is neither a rule nor a score{did_you_mean(key, known)}: known keys are {', '.join(known)}"
            )
        if key in scores and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"params.yaml: filter.{key} is {value!r}: give a number, the lowest score that is kept")
    min_scores = {score: values[score] for score in scores if score in values}
    return {rule: values[rule] for rule in rules if rule in values} | {"min_scores": min_scores}


def select_pairs(table: pd.DataFrame, config: FilterConfig, frozen_splits: pd.Series | None = None) -> pd.DataFrame:
    """Returns the joined table with `dropped`, `group` and `split`; the first reason to drop a row counts, in the order of these lines.

    frozen_splits: an image's id -> split. A group takes the split of its frozen images, test before validation before train; an image that
    is frozen to another split is dropped as `other_split`.
    """
    table = table.copy()

    def drop(reason: str, rows: pd.Series | np.ndarray) -> None:
        table.loc[table.dropped.isna() & rows, "dropped"] = reason

    hashes, close = number_hashes(table, config.duplicate_bits)
    drop("no_prompt", table.complex_prompt.isna())
    drop("nsfw", table.nsfw_level.notna() & ~table.nsfw_level.isin(config.allowed_nsfw_levels))
    drop("too_small", table[["width", "height"]].min(axis=1) < config.min_side)
    drop("no_caption", table.simple_prompt.fillna("").str.strip() == "")
    images = image_ids(table.id)
    drop("same_caption", table.assign(image=images).duplicated(["image", "simple_prompt"]) & (images != table.id))
    drop("near_duplicate", find_near_duplicates(table.dropped.isna().to_numpy(), hashes, close, images.to_numpy()))
    for score, lowest in config.min_scores.items():
        drop(score, ~(pd.to_numeric(table[score]) >= lowest))  # drops null as well
    table["group"] = group_rows(table, hashes, close, config.prompt_overlap)
    split = {group: assign_split(group, config.test, config.validation) for group in table.group.dropna().unique()}
    table["split"] = table.group.map(split)
    if frozen_splits is not None and len(frozen_splits):
        frozen = images.map(frozen_splits)
        rank = frozen.map({name: k for k, name in enumerate(SPLITS)}).groupby(table.group).transform("min")
        table["split"] = rank.map(dict(enumerate(SPLITS))).fillna(table.split)
        drop("other_split", frozen.notna() & (frozen != table.split))
    if "prompt_by" in table:
        drop("made_up_prompt", table.prompt_by.notna() & (table.split == "test"))  # the test split holds prompts of people only
    return table


def number_hashes(table: pd.DataFrame, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the distinct perceptual hashes.

    Returns (the number of each row's hash, (N,), -1 without one; pairs of numbers whose hashes differ in at most `bits` bits, (P, 2)).
    """
    if "phash" not in table:
        return np.full(len(table), -1), np.empty((0, 2), int)
    known = table.phash.notna().to_numpy()
    number, hashes = unique_hashes(unpack_hashes(table.phash[known]))
    numbers = np.full(len(table), -1)
    numbers[known] = number
    return numbers, close_pairs(hashes, bits)


def find_near_duplicates(kept: np.ndarray, hashes: np.ndarray, close: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Marks the rows whose hash equals, or is close to, that of an earlier kept row of another image.

    kept: rows that no other rule drops, (N,). images: the id of each row's image, (N,).
    """
    neighbours: dict[int, list[int]] = {}
    for a, b in close.tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    shared = np.isin(hashes, close) | pd.Series(hashes).duplicated(keep=False).to_numpy()  # all other rows have no near duplicate
    duplicate, kept_hashes, seen = np.zeros(len(hashes), bool), set(), {}
    for row in np.flatnonzero(shared & kept & (hashes >= 0)):
        own, image = int(hashes[row]), images[row]
        if image not in seen:
            seen[image] = own in kept_hashes or any(other in kept_hashes for other in neighbours.get(own, ()))
        duplicate[row] = seen[image]
        if not duplicate[row]:
            kept_hashes.add(own)
    return duplicate


def group_rows(table: pd.DataFrame, hashes: np.ndarray, close: np.ndarray, overlap: float | None = None) -> pd.Series:
    """Returns each row's group: the smallest id of all rows linked by similar images or similar prompts; null if the crawl dropped the row.

    Rows that the filter drops are linked too, so that a threshold moves no row to another split.
    """
    crawled = np.flatnonzero(table.simple_prompt.notna())  # exactly the rows that the crawl kept have a caption
    prompted = crawled[table.complex_prompt.notna().to_numpy()[crawled]]
    prompts, similar = near_equal_prompts(table.complex_prompt.iloc[prompted], overlap)
    links = []
    for rows, number, pairs in ((np.arange(len(hashes)), hashes, close), (prompted, prompts, similar)):
        rows, number = rows[number >= 0], number[number >= 0]
        first = pd.Series(rows).groupby(number).first().to_numpy(int)  # the first row of each number 0, 1, 2, …
        links += [first[pairs], np.stack([first[number], rows], 1)]
    number = connected_groups(len(table), np.concatenate(links))[crawled]
    ids = table.id.to_numpy(object)[crawled]
    order = np.argsort(ids, kind="stable")
    _, smallest = np.unique(number[order], return_index=True)  # position in `order` of the smallest id of each group
    _, group = np.unique(number, return_inverse=True)
    return pd.Series(ids[order][smallest][group], table.index[crawled], dtype=table.id.dtype).reindex(table.index)
