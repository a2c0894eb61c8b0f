"""Prompts that share most of their words are found, others are not tied, and the time grows with their number alone."""

import sys

import numpy as np
import pytest

from sur_adapter.data.filtering.hamming import groups
from sur_adapter.data.filtering.minhash import nearly_equal


def prompts(words: np.ndarray) -> list[str]:
    return [", ".join(f"word{w}" for w in row) for row in words]


def overlaps(texts: list[str]) -> np.ndarray:
    """The Jaccard overlap of each with each, by comparing them."""
    sets = [set(text.split(", ")) for text in texts]
    return np.array([[len(a & b) / len(a | b) for b in sets] for a in sets])


def tied(texts: list[str], least: float) -> np.ndarray:
    number, pairs = nearly_equal(texts, least)
    return groups(number.max() + 1, pairs)[number]


def changed(rng: np.random.Generator, words: np.ndarray, count: int) -> np.ndarray:
    """Each row with `count` of its words replaced, and the rest in another order."""
    words = rng.permuted(words, axis=1)
    words[:, :count] = rng.integers(10**6, 10**9, (len(words), count))
    return words


@pytest.mark.parametrize(("least", "count"), [(0.5, 10), (0.7, 5), (0.8, 3), (0.9, 1)])
def test_near_equal_prompts_are_found_and_others_are_not_tied(least, count):
    """The planted ones are as far apart as they may be: 30 words, of which `count` are others, overlap by (30 − count) / (30 + count)."""
    rng = np.random.default_rng(0)
    words = np.stack([rng.choice(2000, 30, replace=False) for _ in range(1000)])
    group = tied(prompts(np.concatenate([words, changed(rng, words, count)])), least)
    assert (group[:1000] == group[1000:]).mean() >= 0.95
    assert len(np.unique(group[:1000])) == 1000, "each planted beside its own alone"
    assert len(np.unique(tied(prompts(np.concatenate([words, changed(rng, words, count + 1)])), least))) == 2000, "one word more is too far"


def test_in_crowds_that_share_stock_words_the_groups_are_those_that_comparing_all_with_all_finds():
    """Families around 30 prompts, of many variants each, and all with the same twenty words in front."""
    rng = np.random.default_rng(1)
    words = rng.integers(100, 5000, (30, 14))[rng.integers(0, 30, 600)]
    words = np.where(rng.random(words.shape) < 0.12, rng.integers(100, 5000, words.shape), words)
    texts = prompts(np.concatenate([np.tile(np.arange(20), (600, 1)), words], axis=1))
    near = overlaps(texts) >= 0.85
    wanted, found = groups(600, np.argwhere(near)), tied(texts, 0.85)
    assert 30 < wanted.max() < 300 and (near & (wanted[:, None] == wanted)).sum() == near.sum()
    assert (found[:, None] == found)[near].mean() >= 0.95
    assert not ((found[:, None] == found) & (wanted[:, None] != wanted)).any()


def test_twice_as_many_prompts_take_twice_as_many_comparisons_though_all_share_half_of_their_words(monkeypatch):
    module, compared = sys.modules["sur_adapter.data.filtering.minhash"], []
    near = module._near
    monkeypatch.setattr(module, "_near", lambda sets, sizes, pairs, least: compared.append(len(pairs)) or near(sets, sizes, pairs, least))
    counts = []
    for number in (1000, 2000, 4000):
        words = np.concatenate(
            [np.tile(np.arange(24), (number, 1)), np.random.default_rng(number).integers(100, 5000, (number, 10))], axis=1
        )
        compared.clear()
        tied(prompts(words), 0.8)
        counts.append(sum(compared))
    assert 1000 < counts[1] < 2.5 * counts[0] and counts[2] < 2.5 * counts[1], counts


def test_what_is_tied_does_not_hang_on_the_order_of_the_prompts_nor_on_others():
    rng = np.random.default_rng(2)
    words = np.stack([rng.choice(500, 12, replace=False) for _ in range(300)])
    texts = prompts(np.concatenate([words, changed(rng, words, 1)]))
    group, order = tied(texts, 0.8), rng.permutation(600)
    again = tied([texts[i] for i in order], 0.8)
    more = tied(prompts(rng.integers(500, 900, (300, 12))) + texts, 0.8)[300:]
    same = group[:, None] == group
    assert 300 <= len(np.unique(group)) < 330
    assert ((again[:, None] == again) == same[order][:, order]).all() and ((more[:, None] == more) == same).all()


def test_equal_words_have_one_number_and_without_a_least_overlap_nothing_else_is_tied():
    texts = ["A cat, 8K", "a cat (8k)", "8k cat, a", "...", "", "ein Übermut", "EIN übermut"]
    number, pairs = nearly_equal(texts)
    assert number.tolist() == [0, 0, 1, -1, -1, 2, 2] and pairs.shape == (0, 2)
    number, pairs = nearly_equal(texts, 1.0)
    assert number.tolist() == [0, 0, 1, -1, -1, 2, 2] and pairs.tolist() == [], "1 is what null is"
    assert np.sort(nearly_equal(texts, 0.9)[1]).tolist() == [[0, 1]], "in another order they are the same words"
    letters = [" ".join("abcdefghijklmnopqrstuvwxy"), " ".join("abcdefghijklmn")]
    assert nearly_equal(letters, 0.56)[1].tolist() == [[0, 1]], "14 of 25 are 0.56, though 0.56 · 25 is more than 14 in floats"
    assert nearly_equal([], 0.8)[0].shape == (0,) and nearly_equal(["!"], 0.8)[1].shape == (0, 2)


@pytest.mark.parametrize("least", [0.3, 1.1, 80])
def test_an_overlap_that_is_no_share_is_refused_in_a_sentence(least):
    with pytest.raises(ValueError, match=rf"filter.prompt_overlap is {least}: give a share of common words from 0.5 to 1, or null"):
        nearly_equal(["a"], least)
