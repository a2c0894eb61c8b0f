"""Embedding distances distinguish a useful adapter from one without effect, without generating images."""

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
    """Embeddings of keyword prompts are those of plain prompts plus SHIFT; other splits have another shift."""
    for split, n, shift in (("test", 70, SHIFT), ("train", 10, 9.0)):
        x = np.random.default_rng(n).standard_normal((n, 9, 32)).astype("float16")
        embeds = {"simple": x, "complex": (x + shift).astype("float16")}
        write_features(tmp_path / f"{split}-000000.parquet", [f"{split}{k}" for k in range(n)], embeds)
    return tmp_path


def test_an_untrained_adapter_changes_no_distance(features):
    result = embedding_distance(adapter(), FeatureStore(features))
    assert result["pairs"] == 70 and result["mse"]["baseline"] == pytest.approx(SHIFT**2, rel=1e-3)
    for name in ("cosine", "mse"):
        assert result[name]["adapter"] == result[name]["baseline"]


def test_an_adapter_that_adds_the_shift_has_distance_zero(features):
    shifting = adapter()
    nn.init.constant_(shifting.block.g.bias, SHIFT)
    result = embedding_distance(shifting, FeatureStore(features))
    assert (
        result["mse"]["adapter"] < 1e-5
        and result["cosine"]["adapter"] == pytest.approx(1, abs=1e-5)
        and result["cosine"]["baseline"] < 0.98
    )


def test_the_cosine_is_the_mean_over_positions(features):
    rows = FeatureStore(features).rows(range(70), ["simple", "complex"])
    each = [torch.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in zip(rows["simple"], rows["complex"], strict=True)]
    assert embedding_distance(adapter(), FeatureStore(features))["cosine"]["baseline"] == pytest.approx(
        torch.stack(each).mean().item(), abs=1e-6
    )


def test_the_trained_adapter_is_measured_and_a_missing_test_split_is_noted(features, tmp_path):
    adapter(trained=True).save_pretrained(tmp_path / "adapter")
    result, notes = measure_embedding_distance(tmp_path / "adapter", features)
    assert notes == {} and result["embedding"]["mse"]["adapter"] != result["embedding"]["mse"]["baseline"]
    (features / "test-000000.parquet").unlink()
    assert measure_embedding_distance(tmp_path / "adapter", features) == ({}, {"embedding": "the test split has no cached pair"})
