"""The dataset of cached pairs concatenates LLM layers, adds mirrored images as pairs, and does not mix aspect buckets."""

import numpy as np
import pytest
import torch

from sur_adapter.features.store import FeatureSplit, FeatureStore, write_features
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.dataset import FeatureDataset

RNG = np.random.default_rng(0)
IDS = [f"{k}" for k in range(10)]


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float16)


@pytest.fixture
def stored(tmp_path):
    """Cached features of ten pairs, without latents, which a test adds."""
    embeds = {name: numbers(10, 3, 8) for name in ("simple", "complex")}
    layers = {f"layer_{k}": numbers(10, 4) for k in (2, 12)}
    write_features(tmp_path / "clip/train-000000.parquet", IDS, embeds)
    write_features(tmp_path / "llm/train-000000.parquet", IDS, layers)
    return embeds | layers


def cached(folder, *lanes: str) -> FeatureDataset:
    return FeatureDataset(FeatureSplit([FeatureStore(folder / lane) for lane in ("clip", "llm", *lanes)], "train"), ["layer_2", "layer_12"])


def test_rows_equal_those_of_a_batch_in_memory(stored, tmp_path):
    pairs, index = cached(tmp_path), torch.tensor([7, 0, 7])
    teacher = np.concatenate([stored["layer_2"], stored["layer_12"]], -1)
    in_memory = TrainingBatch(*(torch.from_numpy(a) for a in (stored["simple"], stored["complex"], teacher)))
    result, expected = pairs.rows(index, "cpu"), in_memory.rows(index, "cpu")
    assert len(pairs) == 10 and result.latents is None and result.simple.dtype == torch.float32
    assert all(torch.equal(getattr(result, name), getattr(expected, name)) for name in ("simple", "complex", "teacher"))
    assert torch.equal(pairs.same_bucket(index), index)


def test_a_mirrored_image_is_a_pair_of_its_own_with_the_same_text(stored, tmp_path):
    latents = {name: numbers(10, 2, 4, 2, 2) for name in ("latents", "latents_flipped")}
    write_features(tmp_path / "vae/train-000000.parquet", IDS, latents | {"frame": np.arange(60, dtype=np.int32).reshape(10, 6)})
    pairs = cached(tmp_path, "vae")
    result = pairs.rows(torch.tensor([3, 13, 19]), "cpu")
    assert len(pairs) == 20 and torch.equal(result.simple[0], result.simple[1])
    expected = np.stack([latents["latents"][3], latents["latents_flipped"][3], latents["latents_flipped"][9]])
    assert np.array_equal(result.latents, expected.astype(np.float32)) and result.time_ids[2].tolist() == list(range(54, 60))


def test_rows_of_a_batch_share_a_bucket_and_every_row_can_be_drawn(stored, tmp_path):
    shapes = [(2, 4, 2, 3) if k % 3 else (2, 4, 3, 2) for k in range(10)]
    write_features(tmp_path / "vae/train-000000.parquet", IDS, {"latents": [numbers(*shape) for shape in shapes]})
    pairs, seen = cached(tmp_path, "vae"), set()
    for seed in range(40):
        drawn = torch.randint(10, (6,), generator=torch.Generator().manual_seed(seed))
        index = pairs.same_bucket(drawn)
        seen |= set(index.tolist())
        assert index[0] == drawn[0] and {shapes[k] for k in index.tolist()} == {shapes[drawn[0]]}
        assert pairs.rows(index, "cpu").latents.shape == (6, *shapes[drawn[0]])
    assert seen == set(range(10))
