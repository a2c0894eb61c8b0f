"""The whitening of an adapter's input: what it is fitted on, what it does, and that it is saved."""

import json

import pytest
import torch
from helpers.repository import ROOT
from helpers.training_setup import WORDS, cached, cached_sentences, stage_params, train_stage
from torch import Tensor

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.blocks import Whitening
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.features.store import FeatureSplit, FeatureStore
from sur_adapter.training.whitening import FLOOR, fit_whitening, sample_tokens

WIDTH = 16


def tokens(n: int = 4000) -> Tensor:
    """Features of which a few directions hold nearly all the variance, as CLIP's."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0] * torch.logspace(0, -1.2, WIDTH)
    return torch.randn(n, WIDTH, generator=generator) @ mixing.T + 3


class Split:
    """Stands for a split of the cache."""

    def __init__(self, **columns: Tensor):
        self.columns, self.names = columns, list(columns)

    def __len__(self) -> int:
        return len(self.columns["simple"])

    def rows(self, index, names: list[str]) -> dict[str, Tensor]:
        return {name: self.columns[name][index] for name in names}


def test_whitened_tokens_vary_alike_in_every_direction():
    whitening, x = Whitening(WIDTH), tokens()
    fit_whitening(whitening, x.split(100))
    before, after = (torch.linalg.eigvalsh(torch.cov(features.T)) for features in (x, whitening(x)))
    assert before[-1] / before[0] > 200
    assert after[-1] / after[0] < 1 + 2 * FLOOR * before.mean() / before[0] and after[-1] == pytest.approx(1, abs=0.05)
    assert whitening(x).mean(0).abs().max() < 1e-3 and torch.allclose(whitening.matrix, whitening.matrix.T)


def test_directions_without_variance_are_not_magnified_without_bound():
    whitening, x = Whitening(WIDTH), tokens()
    x[:, 0] = 1.0
    fit_whitening(whitening, [x])
    largest = torch.linalg.eigvalsh(whitening.matrix)[-1]
    assert largest == pytest.approx((FLOOR * torch.cov(x.T).trace() / WIDTH).item() ** -0.5, rel=0.01)
    fit_whitening(whitening, [torch.ones(8, WIDTH)])
    assert whitening.matrix.isfinite().all()


def test_padding_does_not_count():
    x = tokens(4 * 10).view(4, 10, WIDTH)
    length = torch.tensor([3, 10, 5, 7])
    real = torch.cat([row[:n] for row, n in zip(x, length, strict=True)])
    split = Split(simple=x, simple_length=length[:, None], complex=x, complex_length=length[:, None])
    assert sorted(torch.cat(list(sample_tokens([split]))).sum(1).tolist()) == sorted(2 * real.sum(1).tolist())
    without_lengths = Split(simple=x, complex=x)
    assert len(torch.cat(list(sample_tokens([without_lengths, split])))) == 2 * 40 + 2 * len(real)


def test_whitening_computes_in_fp32_under_autocast():
    whitening, x = Whitening(WIDTH), tokens(8)
    fit_whitening(whitening, [tokens()])
    exact = whitening(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(whitening(x), exact)


def test_it_is_saved_with_the_adapter_and_older_adapters_have_none(tmp_path):
    made = SURAdapter(AdapterConfig(WIDTH, heads=2, whiten=True)).eval().requires_grad_(False)
    fit_whitening(made.block.norm[0], [tokens()])
    torch.nn.init.normal_(made.block.g.weight)
    made.save_pretrained(tmp_path / "whitened")
    x = tokens(12).view(2, 6, WIDTH)
    assert torch.equal(SURAdapter.from_pretrained(tmp_path / "whitened")(x), made(x))
    SURAdapter(AdapterConfig(WIDTH, heads=2)).save_pretrained(tmp_path / "plain")
    config = tmp_path / "plain" / "config.json"
    config.write_text(json.dumps({key: value for key, value in json.loads(config.read_text()).items() if key != "whiten"}))
    assert not SURAdapter.from_pretrained(tmp_path / "plain").config.whiten
    assert not AdapterConfig(768, variant="official", whiten=True).whiten


@pytest.mark.parametrize("w_llm", [0.0, 1.0])
def test_the_stage_fits_it_on_what_it_trains_on(w_llm, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    paths, folder = cached(tmp_path), cached_sentences(tmp_path / "sentences", [-0.1] * 20)
    train_stage(paths, folder, stage_params(WORDS | {"w_llm": w_llm}, {}))
    fitted = SURAdapter.from_pretrained(tmp_path / "adapter").block.norm[0]
    read = [paths[0], folder] if w_llm else paths[:1]
    expected = Whitening(128)
    fit_whitening(expected, sample_tokens(FeatureSplit([FeatureStore(place)], "train") for place in read))
    assert torch.equal(fitted.mean, expected.mean) and torch.equal(fitted.matrix, expected.matrix)
    assert fitted.mean.norm() > 0


def test_the_stage_leaves_it_out_if_the_params_say_so(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    params = stage_params(WORDS | {"w_llm": 0.0}, {})
    train_stage(cached(tmp_path), None, params | {"adapter": params["adapter"] | {"whiten": False}})
    assert isinstance(SURAdapter.from_pretrained(tmp_path / "adapter").block.norm, torch.nn.LayerNorm)
