"""Cached pairs as a training reads them: the teacher side by side, mirrored pictures as pairs of their own, buckets apart."""

import numpy as np
import pytest
import torch

from sur_adapter.features.store import Split, Store, write_vectors
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.dataset import FeatureDataset

RNG = np.random.default_rng(0)
IDS = [f"{k}" for k in range(10)]


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float16)


@pytest.fixture
def held(tmp_path):
    """What two lanes hold of ten pairs; a lane of latents is for the test to add."""
    words = {name: numbers(10, 3, 8) for name in ("simple", "complex")}
    layers = {f"layer_{k}": numbers(10, 4) for k in (2, 12)}
    write_vectors(tmp_path / "clip/train-000000.parquet", IDS, words)
    write_vectors(tmp_path / "llm/train-000000.parquet", IDS, layers)
    return words | layers


def cached(folder, *lanes: str) -> FeatureDataset:
    return FeatureDataset(Split([Store(folder / lane) for lane in ("clip", "llm", *lanes)], "train"), ["layer_2", "layer_12"])


def test_rows_are_those_of_features_in_memory(held, tmp_path):
    pairs, index = cached(tmp_path), torch.tensor([7, 0, 7])
    teacher = np.concatenate([held["layer_2"], held["layer_12"]], -1)
    atomic_write = TrainingBatch(*(torch.from_numpy(a) for a in (held["simple"], held["complex"], teacher)))
    found, wanted = pairs.rows(index, "cpu"), atomic_write.rows(index, "cpu")
    assert len(pairs) == 10 and found.latents is None and found.simple.dtype == torch.float32
    assert all(torch.equal(getattr(found, name), getattr(wanted, name)) for name in ("simple", "complex", "teacher"))
    assert torch.equal(pairs.together(index), index)


def test_a_mirrored_picture_is_a_pair_of_its_own_with_the_same_words(held, tmp_path):
    latents = {name: numbers(10, 2, 4, 2, 2) for name in ("latents", "latents_flipped")}
    write_vectors(tmp_path / "vae/train-000000.parquet", IDS, latents | {"frame": np.arange(60, dtype=np.int32).reshape(10, 6)})
    pairs = cached(tmp_path, "vae")
    found = pairs.rows(torch.tensor([3, 13, 19]), "cpu")
    assert len(pairs) == 20 and torch.equal(found.simple[0], found.simple[1])
    wanted = np.stack([latents["latents"][3], latents["latents_flipped"][3], latents["latents_flipped"][9]])
    assert np.array_equal(found.latents, wanted.astype(np.float32)) and found.frame[2].tolist() == list(range(54, 60))


def test_rows_of_one_bucket_go_together_and_no_row_of_any_is_left_out(held, tmp_path):
    shapes = [(2, 4, 2, 3) if k % 3 else (2, 4, 3, 2) for k in range(10)]
    write_vectors(tmp_path / "vae/train-000000.parquet", IDS, {"latents": [numbers(*shape) for shape in shapes]})
    pairs, seen = cached(tmp_path, "vae"), set()
    for seed in range(40):
        drawn = torch.randint(10, (6,), generator=torch.Generator().manual_seed(seed))
        index = pairs.together(drawn)
        seen |= set(index.tolist())
        assert index[0] == drawn[0] and {shapes[k] for k in index.tolist()} == {shapes[drawn[0]]}
        assert pairs.rows(index, "cpu").latents.shape == (6, *shapes[drawn[0]])
    assert seen == set(range(10))
