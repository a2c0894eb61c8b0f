"""Finds all pairs of similar hashes without comparing each with each, and the groups that links connect.

Two hashes that differ in at most k bits agree in at least one of any k + 1 parts (pigeonhole principle; Manku et al., WWW 2007). So only
hashes that share a part are compared, and no pair is missed. If too many share one, they are partitioned again by the other parts.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

MAX_BUCKET = 512  # hashes that share a part are compared each with each up to this number
BLOCK = 1 << 18  # pairs compared at a time, so that their bytes stay in the CPU cache


def unpack_hashes(hashes: Iterable[str]) -> np.ndarray:
    """Converts hex hashes of one length to bytes, (N, B) uint8. Raises ValueError if lengths differ."""
    parts, lengths, remaining = [], set(), iter(hashes)
    while part := list(islice(remaining, MAX_BUCKET)):
        lengths |= set(map(len, part))
        if len(lengths) > 1:
            raise ValueError(
                f"hashes of {min(lengths)} and of {max(lengths)} digits cannot be compared: run the score that makes them again"
            )
        parts.append(np.frombuffer(bytes.fromhex("".join(part)), np.uint8).reshape(len(part), -1))
    return np.concatenate(parts) if parts else np.empty((0, 0), np.uint8)


def unique_hashes(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers equal hashes alike: (the number of each hash, (N,); the distinct hashes by number, (D, B) uint8)."""
    count, width = hashes.shape
    if not hashes.size:
        return np.zeros(count, int), hashes[:1]
    encoded = pa.Array.from_buffers(pa.binary(width), count, [None, pa.py_buffer(hashes)]).dictionary_encode()
    distinct = np.frombuffer(encoded.dictionary.buffers()[1], np.uint8, len(encoded.dictionary) * width)
    return encoded.indices.to_numpy().astype(int), distinct.reshape(-1, width)


def close_pairs(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Finds the index pairs (i, j), i < j, (P, 2) of hashes, (N, B) uint8, that differ in at most `bits` bits; sorted by j, then i.

    Exact, as if all pairs were compared. N equal hashes have N² pairs: pass distinct ones.
    """
    count, width = hashes.shape
    if count < 2:
        return np.empty((0, 2), int)
    words = (np.pad(hashes, ((0, 0), (0, -width % 8))) if width % 8 else hashes).view(np.uint64)  # (N, W)
    order = np.random.default_rng(0).permutation(width)  # adjacent bytes are correlated, so each part takes bytes from everywhere
    keys = [np.empty(0, np.int64)]
    for i, j in _candidates(np.ascontiguousarray(hashes.T), np.arange(count), order, bits):
        distance = np.zeros(len(i), np.uint16)
        for w in range(words.shape[1]):  # a word at a time: nearly all pairs are too far apart after a few
            distance += np.bitwise_count(words[i, w] ^ words[j, w])
            if w % 4 == 3:
                near = distance <= bits
                i, j, distance = i[near], j[near], distance[near]
        near = distance <= bits
        keys.append(np.maximum(i, j)[near] * count + np.minimum(i, j)[near])
    j, i = np.divmod(np.unique(np.concatenate(keys)), count)
    return np.stack([i, j], 1)


def _candidates(columns: np.ndarray, rows: np.ndarray, positions: np.ndarray, bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields pairs of `rows`, which agree outside `positions`, that agree in one of bits + 1 parts of them too; some more than once."""
    positions = positions[[(columns[p, rows] != columns[p, rows[0]]).any() for p in positions]]  # only bytes that differ can split the rows
    parts = [positions[part :: bits + 1] for part in range(bits + 1)] if len(positions) > bits else []
    runs = [_runs(columns, rows, part) for part in parts]
    if not parts or sum((sizes**2).sum() for _, _, sizes in runs) >= len(rows) ** 2:  # partitioning costs more than it saves
        yield from _all_pairs(rows[None])
        return
    for part, (order, starts, sizes) in zip(parts, runs, strict=True):
        for size in np.unique(sizes[(sizes > 1) & (sizes <= MAX_BUCKET)]):
            yield from _all_pairs(rows[order[starts[sizes == size, None] + np.arange(size)]])
        rest = np.setdiff1d(positions, part, assume_unique=True)
        for start, size in zip(starts[sizes > MAX_BUCKET], sizes[sizes > MAX_BUCKET], strict=True):
            yield from _candidates(columns, rows[order[start : start + size]], rest, bits)


def _all_pairs(runs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields all pairs within each run, (R, size), about BLOCK at a time."""
    count, size = runs.shape
    step = max(1, BLOCK // size)
    for start in range(0, size - 1, step):
        first, second = np.nonzero(np.arange(size) > np.arange(start, min(start + step, size - 1))[:, None])
        runs_per_block = max(1, BLOCK // len(first))
        for k in range(0, count, runs_per_block):
            yield runs[k : k + runs_per_block, first + start].ravel(), runs[k : k + runs_per_block, second].ravel()


def _runs(columns: np.ndarray, rows: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorts `rows` into runs that agree in `positions`: (order, start of each run, its length).

    Rows are compared by a 64-bit hash: a collision puts others into a run, and the later comparison of their bits separates them.
    """
    key = np.full(len(rows), 0xCBF29CE484222325, np.uint64)
    for p in positions:
        key = (key ^ columns[p, rows]) * np.uint64(0x100000001B3)  # FNV-1a
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=~key[order[:1]]))
    return order, starts, np.diff(starts, append=len(rows))


def connected_groups(count: int, links: np.ndarray) -> np.ndarray:
    """Returns a number for each of `count` items, equal if links (P, 2) connect them, directly or through others."""
    i, j = np.asarray(links, int).reshape(-1, 2).T
    return connected_components(coo_array((np.ones(len(i), bool), (i, j)), shape=(count, count)), directed=False)[1]
