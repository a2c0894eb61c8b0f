"""The adapter: what it is at the start, what it attends to, what its files hold."""

import pytest
import torch
from torch import nn

from sur_adapter.adapter import VARIANTS, AdapterConfig, SURAdapter


def adapter(trained: bool = True, **changed) -> SURAdapter:
    torch.manual_seed(0)
    made = SURAdapter(AdapterConfig(**{"width": 32, "teacher_width": 24, "heads": 4} | changed)).eval()
    if trained:  # as if: whatever starts as nothing is something
        nn.init.normal_(made.g.weight, std=0.1)
    return made


X = torch.randn(3, 11, 32, generator=torch.Generator().manual_seed(1))


def test_untrained_it_is_the_identity_bit_for_bit():
    assert torch.equal(adapter(trained=False)(X), X)


def test_at_strength_nought_it_is_the_identity_bit_for_bit():
    assert torch.equal(adapter()(X, 0.0), X)


def test_strength_weighs_its_output_against_the_text_features():
    half, full = adapter()(X, 0.5), adapter()(X, 1.0)
    assert torch.allclose(half, 0.5 * full + 0.5 * X, atol=1e-6) and not torch.allclose(full, X, atol=1e-3)


def test_a_prompt_is_adapted_the_same_whoever_else_is_in_the_batch():
    alone, together = adapter()(X[1:2]), adapter()(X)[1:2]
    assert torch.allclose(alone, together, atol=1e-6)


def test_attention_runs_over_the_tokens_of_a_prompt():
    changed = X.clone()
    changed[1, 4] += 1
    moved = (adapter()(changed) - adapter()(X)).abs().amax(-1)
    assert (moved[1] > 1e-6).all() and (moved[[0, 2]] == 0).all()


def test_the_query_is_what_attends():
    made = adapter(variant="paper")
    assert torch.equal(made.adapt(X, made.query(X)), made(X))
    assert not torch.allclose(made.adapt(X, made.query(X) + torch.randn(32)), made(X), atol=1e-4)


def test_in_the_paper_a_query_that_attends_to_the_same_tokens_says_the_same_and_in_ours_it_is_handed_on():
    nobody = torch.zeros(1, 1, 32)  # one token: whoever asks, the answer is that token
    for variant, same in (("paper", True), ("sur", False)):
        made = adapter(variant=variant)
        asked = [made.adapt(nobody + 1, q) for q in torch.randn(2, 1, 1, 32, generator=torch.Generator().manual_seed(5))]
        assert torch.equal(*asked) == same


def test_a_variant_there_is_not_is_refused():
    with pytest.raises(ValueError, match="adapter.variant is 'papre': choose sur or paper"):
        adapter(variant="papre")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_that_is_saved_is_alive(variant):
    made = adapter(variant=variant)
    made.requires_grad_(True)
    (made(X).square().sum() + made.projection(torch.randn(3, 24)).square().sum()).backward()
    dead = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert [d for d in dead if "in_proj_bias" not in d] == []  # the bias of keys cancels in the softmax; it shares a tensor with the living


def test_dropout_is_nowhere():
    made = adapter().train()
    assert torch.equal(made(X), made(X))


def test_its_files_give_it_back_with_the_teachers_projection_and_where_it_comes_from(tmp_path):
    made = adapter(about={"base_model": "some/model", "layers": [3]})
    made.save_pretrained(tmp_path)
    again = SURAdapter.from_pretrained(tmp_path)
    assert again.config == made.config
    assert torch.equal(again(X), made.requires_grad_(False)(X)) and torch.equal(again.projection.weight, made.projection.weight)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_without_an_adapter_is_refused_with_the_cure(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no config.json: train an adapter"):
        SURAdapter.from_pretrained(tmp_path)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="adapter.heads is 5, but must divide the text encoder's width 32"):
        adapter(heads=5)
