"""What is nearly the same: pairs of close hashes, found without comparing all with all, and the groups that links tie together.

Two hashes that differ in at most k bits agree in at least one of any k + 1 parts of theirs (pigeonhole; Manku et al., WWW 2007).
So only hashes that share a part are compared, and no pair is missed. Where too many share one, they are parted again by the rest.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

FEW = 512  # hashes that share a part: so many are simply compared, each with each
BLOCK = 1 << 18  # pairs compared at a time: their bytes stay in the processor's cache


def unpacked(hashes: Iterable[str]) -> np.ndarray:
    """Hex hashes of one length as bytes, (N, B) uint8. Raises ValueError where lengths differ."""
    parts, lengths, rest = [], set(), iter(hashes)
    while part := list(islice(rest, FEW)):
        lengths |= set(map(len, part))
        if len(lengths) > 1:
            raise ValueError(
                f"hashes of {min(lengths)} and of {max(lengths)} digits cannot be compared: run the score that makes them again"
            )
        parts.append(np.frombuffer(bytes.fromhex("".join(part)), np.uint8).reshape(len(part), -1))
    return np.concatenate(parts) if parts else np.empty((0, 0), np.uint8)


def distinct(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(a number for each hash, (N,), equal where hashes are; the distinct ones by that number, (D, B) uint8)."""
    count, width = hashes.shape
    if not hashes.size:
        return np.zeros(count, int), hashes[:1]
    found = pa.Array.from_buffers(pa.binary(width), count, [None, pa.py_buffer(hashes)]).dictionary_encode()
    held = np.frombuffer(found.dictionary.buffers()[1], np.uint8, len(found.dictionary) * width)
    return found.indices.to_numpy().astype(int), held.reshape(-1, width)


def close(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Index pairs (i, j), i < j, (P, 2) of hashes, (N, B) uint8, that differ in at most `bits` bits; by j, then i.

    Exact: as if each were compared with every other. Equal hashes are N² pairs: give each once.
    """
    count, width = hashes.shape
    if count < 2:
        return np.empty((0, 2), int)
    words = (np.pad(hashes, ((0, 0), (0, -width % 8))) if width % 8 else hashes).view(np.uint64)  # (N, W)
    mixed = np.random.default_rng(0).permutation(width)  # neighbouring bytes are alike: a part takes its bytes from everywhere
    found = [np.empty(0, np.int64)]
    for i, j in _candidates(np.ascontiguousarray(hashes.T), np.arange(count), mixed, bits):
        far = np.zeros(len(i), np.uint16)
        for w in range(words.shape[1]):  # a word at a time: nearly all pairs are far apart after a few
            far += np.bitwise_count(words[i, w] ^ words[j, w])
            if w % 4 == 3:
                near = far <= bits
                i, j, far = i[near], j[near], far[near]
        near = far <= bits
        found.append(np.maximum(i, j)[near] * count + np.minimum(i, j)[near])
    j, i = np.divmod(np.unique(np.concatenate(found)), count)
    return np.stack([i, j], 1)


def _candidates(columns: np.ndarray, rows: np.ndarray, places: np.ndarray, bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of `rows`, which agree outside `places`, that agree in one of bits + 1 parts of `places` as well; some more than once."""
    places = places[[(columns[p, rows] != columns[p, rows[0]]).any() for p in places]]  # where all agree there is nothing to part them by
    parts = [places[part :: bits + 1] for part in range(bits + 1)] if len(places) > bits else []
    runs = [_runs(columns, rows, part) for part in parts]
    if not parts or sum((sizes**2).sum() for _, _, sizes in runs) >= len(rows) ** 2:  # parting them costs more than it saves
        yield from _each_with_each(rows[None])
        return
    for part, (order, starts, sizes) in zip(parts, runs, strict=True):
        for size in np.unique(sizes[(sizes > 1) & (sizes <= FEW)]):
            yield from _each_with_each(rows[order[starts[sizes == size, None] + np.arange(size)]])
        rest = np.setdiff1d(places, part, assume_unique=True)
        for start, size in zip(starts[sizes > FEW], sizes[sizes > FEW], strict=True):
            yield from _candidates(columns, rows[order[start : start + size]], rest, bits)


def _each_with_each(runs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs within each run, (R, size), about BLOCK at a time."""
    count, size = runs.shape
    step = max(1, BLOCK // size)
    for start in range(0, size - 1, step):
        one, other = np.nonzero(np.arange(size) > np.arange(start, min(start + step, size - 1))[:, None])
        many = max(1, BLOCK // len(one))
        for k in range(0, count, many):
            yield runs[k : k + many, one + start].ravel(), runs[k : k + many, other].ravel()


def _runs(columns: np.ndarray, rows: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An order of `rows` in which those that agree in `places` stand together; where each run of them starts, and its length.

    They are told apart by 64 bits: others may stand among them now and then, who are found out when compared.
    """
    key = np.full(len(rows), 0xCBF29CE484222325, np.uint64)
    for p in places:
        key = (key ^ columns[p, rows]) * np.uint64(0x100000001B3)  # FNV-1a
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=~key[order[:1]]))
    return order, starts, np.diff(starts, append=len(rows))


def groups(count: int, links: np.ndarray) -> np.ndarray:
    """A number for each of `count` things, equal where links (P, 2) lead from one to the other."""
    i, j = np.asarray(links, int).reshape(-1, 2).T
    return connected_components(coo_array((np.ones(len(i), bool), (i, j)), shape=(count, count)), directed=False)[1]
