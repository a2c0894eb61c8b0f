"""Prompts that say the same, or nearly the same, found without comparing all with all.

How near two prompts are is the Jaccard overlap of their sets of words, |A ∩ B| / |A ∪ B|. The minimum of a random rank over A equals
that over B with just that probability (MinHash; Broder, 1997). A band is a few such minima at once: pairs of an overlap s share all R
of a band with probability s^R, and one of B bands with 1 − (1 − s^R)^B (Leskovec et al., Mining of Massive Datasets, ch. 3). Pairs that
share a band are compared for real, so none is tied that is too far apart; of those that are near enough, FOUND are met at least.
"""

import re
from array import array
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from scipy.sparse import csr_array

from sur_adapter.data.filtering.hamming import groups

MINIMA = 128  # for each prompt, over all bands
FOUND = 0.98  # least share of the pairs of just the least overlap that share a band
NEXT = 8  # in a band, each is compared with so many that follow: a crowd is tied as a chain, in time that grows with its size alone
BLOCK = 1 << 16  # pairs compared at a time
STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, as of SplitMix64
WORD = re.compile(r"\w+")


def nearly_equal(prompts: Iterable[str], least: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(a number for each prompt, 0, 1, 2, … by first appearance, equal where the words are, in their order; −1 without a word;
    pairs of such numbers, (P, 2), that tie those of an overlap of at least `least`: not all such pairs, but a way between any two).

    Case and punctuation do not count. Without `least`, or with 1, there are no pairs. Raises ValueError unless it is from 0.5 to 1.
    """
    if least is not None and not 0.5 <= least <= 1:
        raise ValueError(f"params.yaml: filter.prompt_overlap is {least}: give a share of common words from 0.5 to 1, or null")
    counted = least is not None and least < 1  # of 1 are equal words alone, as without
    numbers, known = array("q"), {}
    sets, sizes, vocabulary = array("i"), array("i"), {}
    for prompt in prompts:
        words = WORD.findall(prompt.lower())
        if not words:
            numbers.append(-1)
            continue
        numbers.append(known.setdefault(_hash(" ".join(words)), len(known)))
        if counted and len(sizes) < len(known):
            mine = {vocabulary.setdefault(word, len(vocabulary)) for word in words}
            sets.extend(mine)
            sizes.append(len(mine))
    if not len(sizes):
        return np.array(numbers), np.empty((0, 2), int)
    return np.array(numbers), overlapping(np.array(sets), np.array(sizes, int), np.array([*map(_hash, vocabulary)], np.uint64), least)


def _hash(text: str) -> int:
    """64 bits: two of a million texts share them in one of 37 million such tables, and no more than a tie too many comes of it."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def overlapping(members: np.ndarray, sizes: np.ndarray, hashes: np.ndarray, least: float) -> np.ndarray:
    """Pairs (P, 2) of sets that overlap by `least` and tie all that do.

    members: of one set after the other, each the number of its hash; sizes (N,): of the sets; hashes (V,) uint64: of what they hold.
    """
    count, starts = len(sizes), np.concatenate([[0], np.cumsum(sizes)])
    sets = csr_array((np.ones(len(members), np.int32), members, starts), shape=(count, len(hashes)))
    ties, number = [np.empty((0, 2), int)], np.arange(count)
    depth, bands = _bands(least)
    least -= 1e-9  # 14 of 25 are 0.56, though 0.56 · 25 is more than 14 in floats
    ranked = np.empty(len(members), np.uint32)
    for band in range(bands):
        key = np.zeros(count, np.uint64)
        for row in range(depth):
            rank = (_mixed(hashes ^ np.uint64(_hash(f"{band} {row}"))) >> np.uint64(32)).astype(np.uint32)  # (V,)
            key = _mixed((key + STEP) ^ np.minimum.reduceat(np.take(rank, members, out=ranked), starts[:-1]))  # (N,)
        order = np.argsort(key, kind="stable")
        for step in range(1, NEXT + 1):
            i, j = order[:-step], order[step:]
            new = (key[i] == key[j]) & (number[i] != number[j]) & (np.minimum(sizes[i], sizes[j]) >= least * np.maximum(sizes[i], sizes[j]))
            ties.append(_near(sets, sizes, np.stack([i[new], j[new]], 1), least))
        number = groups(count, np.concatenate(ties))  # what is tied already is not compared again
    return np.concatenate(ties)


def _near(sets: csr_array, sizes: np.ndarray, pairs: np.ndarray, least: float) -> np.ndarray:
    """Those of `pairs` that overlap by `least`."""
    near = np.zeros(len(pairs), bool)
    for k in range(0, len(pairs), BLOCK):
        i, j = pairs[k : k + BLOCK].T
        both = sets[i].multiply(sets[j]).sum(axis=1)
        near[k : k + BLOCK] = both >= least * (sizes[i] + sizes[j] - both)
    return pairs[near]


def _mixed(x: np.ndarray) -> np.ndarray:
    """64 bits, each of which hangs on all of x (SplitMix64; Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _bands(least: float) -> tuple[int, int]:
    """(minima a band, bands): as deep as FOUND allows, so that few pairs are compared in vain."""
    depth = next((r for r in range(MINIMA, 1, -1) if 1 - (1 - least**r) ** (MINIMA // r) >= FOUND), 1)
    return depth, MINIMA // depth
