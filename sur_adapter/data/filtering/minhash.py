"""Finds prompts with nearly equal words by MinHash, without comparing each with each.

The similarity of two prompts is the Jaccard overlap of their sets of words, |A ∩ B| / |A ∪ B|. It equals the probability that the minimum
of a random rank over A equals that over B (MinHash; Broder, 1997). A band combines R such minima: a pair of overlap s shares a band with
probability s^R, and at least one of B bands with 1 − (1 − s^R)^B (Leskovec et al., Mining of Massive Datasets, ch. 3). Pairs that share a
band are compared exactly, so there are no false positives; of the true pairs at least the share RECALL is found.
"""

import re
from array import array
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from scipy.sparse import csr_array

from sur_adapter.data.filtering.hamming import connected_groups

MINIMA = 128  # for each prompt, over all bands
RECALL = 0.98  # lowest share of the pairs of exactly the lowest overlap that share a band
MAX_NEIGHBOURS = 8  # successors that each prompt is compared with in a band: linear time also in a large bucket, which becomes a chain
BLOCK = 1 << 16  # pairs compared at a time
STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, as in SplitMix64
WORD = re.compile(r"\w+")


def near_equal_prompts(prompts: Iterable[str], min_overlap: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Numbers prompts of equal words alike, and links the numbers of similar ones.

    Returns (numbers 0, 1, 2, … by first appearance, (N,), equal if the words and their order are, -1 without a word; pairs of numbers,
    (P, 2), that connect prompts of an overlap of at least `min_overlap`: not all such pairs, but a path between any two). Case and
    punctuation do not count. If `min_overlap` is None or 1 there are no pairs.
    """
    linked = min_overlap is not None and min_overlap < 1  # 1 means equal words, as None does
    numbers, known = array("q"), {}
    sets, sizes, vocabulary = array("i"), array("i"), {}
    for prompt in prompts:
        words = WORD.findall(prompt.lower())
        if not words:
            numbers.append(-1)
            continue
        numbers.append(known.setdefault(_hash(" ".join(words)), len(known)))
        if linked and len(sizes) < len(known):
            word_ids = {vocabulary.setdefault(word, len(vocabulary)) for word in words}
            sets.extend(word_ids)
            sizes.append(len(word_ids))
    if not len(sizes):
        return np.array(numbers), np.empty((0, 2), int)
    hashes = np.array([*map(_hash, vocabulary)], np.uint64)
    return np.array(numbers), overlapping_pairs(np.array(sets), np.array(sizes, int), hashes, min_overlap)


def _hash(text: str) -> int:
    """Hashes a text to 64 bits. With a million texts, one in 37 million such tables has a collision, which adds one wrong link."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def overlapping_pairs(members: np.ndarray, sizes: np.ndarray, hashes: np.ndarray, min_overlap: float) -> np.ndarray:
    """Finds pairs (P, 2) of sets with at least `min_overlap`, enough to connect all such sets.

    members: the elements of one set after the other, each an index of `hashes`. sizes: of the sets, (N,). hashes: of the elements, (V,)
    uint64.
    """
    count, starts = len(sizes), np.concatenate([[0], np.cumsum(sizes)])
    sets = csr_array((np.ones(len(members), np.int32), members, starts), shape=(count, len(hashes)))
    links, group = [np.empty((0, 2), int)], np.arange(count)
    depth, bands = _bands(min_overlap)
    min_overlap -= 1e-9  # 14 of 25 are 0.56, though 0.56 · 25 is more than 14 in floats
    ranked = np.empty(len(members), np.uint32)
    for band in range(bands):
        key = np.zeros(count, np.uint64)
        for row in range(depth):
            rank = (_mix(hashes ^ np.uint64(_hash(f"{band} {row}"))) >> np.uint64(32)).astype(np.uint32)  # (V,)
            key = _mix((key + STEP) ^ np.minimum.reduceat(np.take(rank, members, out=ranked), starts[:-1]))  # (N,)
        order = np.argsort(key, kind="stable")
        for step in range(1, MAX_NEIGHBOURS + 1):
            i, j = order[:-step], order[step:]
            similar_size = np.minimum(sizes[i], sizes[j]) >= min_overlap * np.maximum(sizes[i], sizes[j])
            new = (key[i] == key[j]) & (group[i] != group[j]) & similar_size
            links.append(_near(sets, sizes, np.stack([i[new], j[new]], 1), min_overlap))
        group = connected_groups(count, np.concatenate(links))  # connected sets are not compared again
    return np.concatenate(links)


def _near(sets: csr_array, sizes: np.ndarray, pairs: np.ndarray, min_overlap: float) -> np.ndarray:
    """Selects those of `pairs` with at least `min_overlap`."""
    near = np.zeros(len(pairs), bool)
    for k in range(0, len(pairs), BLOCK):
        i, j = pairs[k : k + BLOCK].T
        shared = sets[i].multiply(sets[j]).sum(axis=1)
        near[k : k + BLOCK] = shared >= min_overlap * (sizes[i] + sizes[j] - shared)
    return pairs[near]


def _mix(x: np.ndarray) -> np.ndarray:
    """Mixes 64 bits so that each output bit depends on all of x (SplitMix64; Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _bands(min_overlap: float) -> tuple[int, int]:
    """Returns (minima per band, bands): the most minima that reach RECALL, which gives the fewest false candidates."""
    depth = next((r for r in range(MINIMA, 1, -1) if 1 - (1 - min_overlap**r) ** (MINIMA // r) >= RECALL), 1)
    return depth, MINIMA // depth
