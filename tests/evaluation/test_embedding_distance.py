"""Nearness tells an adapter that helps from one that does nothing, without a picture."""

import numpy as np
import pytest
import torch
from helpers.training_setup import adapter
from torch import nn

from sur_adapter.evaluation.embedding_distance import embedding_distance
from sur_adapter.evaluation.evaluator import measure_embedding_distance
from sur_adapter.features.store import FeatureStore, write_features

SHIFT = 0.5


@pytest.fixture
def features(tmp_path):
    """Keyword prompts lie SHIFT beside the plain ones in every number; those of other splits lie elsewhere."""
    for split, n, shift in (("test", 70, SHIFT), ("train", 10, 9.0)):
        x = np.random.default_rng(n).standard_normal((n, 9, 32)).astype("float16")
        words = {"simple": x, "complex": (x + shift).astype("float16")}
        write_features(tmp_path / f"{split}-000000.parquet", [f"{split}{k}" for k in range(n)], words)
    return tmp_path


def test_an_adapter_that_does_nothing_brings_nothing_nearer(features):
    found = embedding_distance(adapter(), FeatureStore(features))
    assert found["pairs"] == 70 and found["mse"]["baseline"] == pytest.approx(SHIFT**2, rel=1e-3)
    for name in ("cosine", "mse"):
        assert found[name]["adapter"] == found[name]["baseline"]


def test_an_adapter_that_makes_the_step_arrives(features):
    made = adapter()
    nn.init.constant_(made.block.g.bias, SHIFT)
    found = embedding_distance(made, FeatureStore(features))
    assert (
        found["mse"]["adapter"] < 1e-5 and found["cosine"]["adapter"] == pytest.approx(1, abs=1e-5) and found["cosine"]["baseline"] < 0.98
    )


def test_the_cosine_is_that_of_each_position(features):
    rows = FeatureStore(features).rows(range(70), ["simple", "complex"])
    each = [torch.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in zip(rows["simple"], rows["complex"], strict=True)]
    assert embedding_distance(adapter(), FeatureStore(features))["cosine"]["baseline"] == pytest.approx(
        torch.stack(each).mean().item(), abs=1e-6
    )


def test_the_stage_reads_the_adapter_that_was_trained_and_says_where_there_is_no_test_split(features, tmp_path):
    adapter(trained=True).save_pretrained(tmp_path / "adapter")
    found, notes = measure_embedding_distance(tmp_path / "adapter", features)
    assert notes == {} and found["embedding"]["mse"]["adapter"] != found["embedding"]["mse"]["baseline"]
    (features / "test-000000.parquet").unlink()
    assert measure_embedding_distance(tmp_path / "adapter", features) == ({}, {"embedding": "the test split has no cached pair"})
