"""Prompts that share most words are linked, others are not, and the time is linear in their number."""

import sys

import numpy as np
import pytest

from sur_adapter.config import from_dict
from sur_adapter.data.filtering.filtering import FilterConfig
from sur_adapter.data.filtering.hamming import connected_groups
from sur_adapter.data.filtering.minhash import near_equal_prompts


def prompts(words: np.ndarray) -> list[str]:
    return [", ".join(f"word{w}" for w in row) for row in words]


def overlaps(texts: list[str]) -> np.ndarray:
    """The exact Jaccard overlap of each with each."""
    sets = [set(text.split(", ")) for text in texts]
    return np.array([[len(a & b) / len(a | b) for b in sets] for a in sets])


def group(texts: list[str], min_overlap: float) -> np.ndarray:
    number, pairs = near_equal_prompts(texts, min_overlap)
    return connected_groups(number.max() + 1, pairs)[number]


def changed(rng: np.random.Generator, words: np.ndarray, count: int) -> np.ndarray:
    """Each row with `count` of its words replaced, and the rest in another order."""
    words = rng.permuted(words, axis=1)
    words[:, :count] = rng.integers(10**6, 10**9, (len(words), count))
    return words


@pytest.mark.parametrize(("min_overlap", "count"), [(0.5, 10), (0.7, 5), (0.8, 3), (0.9, 1)])
def test_near_equal_prompts_are_linked_and_others_are_not(min_overlap, count):
    """Planted pairs have the lowest overlap that counts: of 30 words `count` differ, so it is (30 − count) / (30 + count)."""
    rng = np.random.default_rng(0)
    words = np.stack([rng.choice(2000, 30, replace=False) for _ in range(1000)])
    groups = group(prompts(np.concatenate([words, changed(rng, words, count)])), min_overlap)
    assert (groups[:1000] == groups[1000:]).mean() >= 0.95
    assert len(np.unique(groups[:1000])) == 1000, "planted pairs are not linked to one another"
    further = prompts(np.concatenate([words, changed(rng, words, count + 1)]))
    assert len(np.unique(group(further, min_overlap))) == 2000, "with one more changed word there is no link"


def test_groups_of_prompts_with_many_shared_words_are_those_that_brute_force_finds():
    """Many variants of each of 30 prompts, and all begin with the same twenty words."""
    rng = np.random.default_rng(1)
    words = rng.integers(100, 5000, (30, 14))[rng.integers(0, 30, 600)]
    words = np.where(rng.random(words.shape) < 0.12, rng.integers(100, 5000, words.shape), words)
    texts = prompts(np.concatenate([np.tile(np.arange(20), (600, 1)), words], axis=1))
    near = overlaps(texts) >= 0.85
    expected, result = connected_groups(600, np.argwhere(near)), group(texts, 0.85)
    assert 30 < expected.max() < 300 and (near & (expected[:, None] == expected)).sum() == near.sum()
    assert (result[:, None] == result)[near].mean() >= 0.95
    assert not ((result[:, None] == result) & (expected[:, None] != expected)).any()


def test_the_number_of_comparisons_is_linear_even_if_all_prompts_share_half_of_their_words(monkeypatch):
    module, compared = sys.modules["sur_adapter.data.filtering.minhash"], []
    near = module._near
    monkeypatch.setattr(module, "_near", lambda *args: compared.append(len(args[2])) or near(*args))
    counts = []
    for number in (1000, 2000, 4000):
        words = np.concatenate(
            [np.tile(np.arange(24), (number, 1)), np.random.default_rng(number).integers(100, 5000, (number, 10))], axis=1
        )
        compared.clear()
        group(prompts(words), 0.8)
        counts.append(sum(compared))
    assert 1000 < counts[1] < 2.5 * counts[0] and counts[2] < 2.5 * counts[1], counts


def test_groups_depend_neither_on_the_order_nor_on_other_prompts():
    rng = np.random.default_rng(2)
    words = np.stack([rng.choice(500, 12, replace=False) for _ in range(300)])
    texts = prompts(np.concatenate([words, changed(rng, words, 1)]))
    groups, order = group(texts, 0.8), rng.permutation(600)
    shuffled = group([texts[i] for i in order], 0.8)
    extended = group(prompts(rng.integers(500, 900, (300, 12))) + texts, 0.8)[300:]
    same = groups[:, None] == groups
    assert 300 <= len(np.unique(groups)) < 330
    assert ((shuffled[:, None] == shuffled) == same[order][:, order]).all() and ((extended[:, None] == extended) == same).all()


def test_equal_words_have_one_number_and_without_min_overlap_there_are_no_links():
    texts = ["A cat, 8K", "a cat (8k)", "8k cat, a", "...", "", "ein Übermut", "EIN übermut"]
    number, pairs = near_equal_prompts(texts)
    assert number.tolist() == [0, 0, 1, -1, -1, 2, 2] and pairs.shape == (0, 2)
    number, pairs = near_equal_prompts(texts, 1.0)
    assert number.tolist() == [0, 0, 1, -1, -1, 2, 2] and pairs.tolist() == [], "1 means the same as None"
    assert np.sort(near_equal_prompts(texts, 0.9)[1]).tolist() == [[0, 1]], "the order of the words does not matter"
    letters = [" ".join("abcdefghijklmnopqrstuvwxy"), " ".join("abcdefghijklmn")]
    assert near_equal_prompts(letters, 0.56)[1].tolist() == [[0, 1]], "14 of 25 are 0.56, though 0.56 · 25 is more than 14 in floats"
    assert near_equal_prompts([], 0.8)[0].shape == (0,) and near_equal_prompts(["!"], 0.8)[1].shape == (0, 2)


@pytest.mark.parametrize("overlap", [0.3, 1.1, 80])
def test_an_overlap_out_of_range_is_a_clear_error(overlap):
    with pytest.raises(ValueError, match=rf"filter.prompt_overlap is {overlap}.*: give a share of common words from 0.5 to 1, or null"):
        from_dict(FilterConfig, {"prompt_overlap": overlap}, "filter")
