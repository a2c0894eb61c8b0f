"""The three terms of the objective."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn

from sur_adapter import loss
from sur_adapter.adapter import AdapterConfig, SURAdapter
from sur_adapter.features.queries import cross_attentions
from sur_adapter.trainer import Features, Objective, fit, optimizers_of, share


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    made = UNet2DConditionModel(
        8, **blocks, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32, attention_head_dim=2, norm_num_groups=8
    )
    return made.eval().requires_grad_(False)


def layers(unet, n: int = 40) -> list[loss.CrossAttention]:
    torch.manual_seed(1)
    found = []
    for m in cross_attentions(unet).values():
        q = torch.randn(n, m.to_q.out_features)
        found.append(loss.CrossAttention(m.heads, q, m.to_k.weight, m.to_v.weight, m.to_out[0].weight, m.to_out[0].bias))
    return found


def features(n: int = 24) -> Features:
    torch.manual_seed(2)
    return Features(torch.randn(n, 9, 32), torch.randn(n, 9, 32), torch.randn(n, 20), torch.randn(n, 2, 4, 8, 8))


def adapter() -> SURAdapter:
    torch.manual_seed(3)
    return SURAdapter(AdapterConfig(32, 20, heads=4))


class Noise:
    """A scheduler's two things that the objective asks for."""

    class config:
        num_train_timesteps = 1000

    @staticmethod
    def add_noise(z, noise, t):
        return 0.6 * z + 0.8 * noise


def test_kl_is_nought_for_equals_positive_else_and_has_a_direction():
    a, b = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    assert loss.kl(a, a).item() == pytest.approx(0, abs=1e-6)
    assert loss.kl(a, b) > 0 and not torch.isclose(loss.kl(a, b), loss.kl(b, a))


def test_kl_of_two_known_distributions_is_what_the_equation_says():
    p, s = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    assert loss.kl(p.log()[None, None], s.log()[None, None]).item() == pytest.approx((p * (p / s).log()).sum().item(), abs=1e-6)


def test_the_layers_of_the_loss_are_the_layers_of_the_unet(unet):
    for module, layer in zip(cross_attentions(unet).values(), layers(unet), strict=True):
        hidden, words = torch.randn(2, 6, module.to_q.in_features), torch.randn(2, 9, 32)
        ours = torch.cat([layer(module.to_q(h), w[None]) for h, w in zip(hidden, words, strict=True)])
        assert torch.allclose(ours, module(hidden, encoder_hidden_states=words), atol=1e-5)


def test_attention_loss_is_nought_for_equals_and_about_two_for_strangers(unet):
    a, b = torch.randn(16, 9, 32), torch.randn(16, 9, 32)
    assert loss.prompt_attention(layers(unet), a, a).item() == 0
    assert 1.0 < loss.prompt_attention(layers(unet), a, b).item() < 3.0


def test_attention_loss_does_not_care_about_the_order_of_words_and_kl_does(unet):
    a = torch.randn(4, 9, 32)
    shuffled = a[:, torch.randperm(9)]
    assert loss.prompt_attention(layers(unet), a, shuffled).item() == pytest.approx(0, abs=1e-6)
    assert loss.prompt_kl(a, shuffled) > 0.1


def test_the_teachers_loss_cannot_be_won_by_becoming_flat():
    query = torch.randn(2, 5, 16)
    target = torch.randn(2, 16)
    assert loss.llm(target, 0.1 * query).item() == pytest.approx(loss.llm(target, query).item(), rel=0.05)
    assert loss.llm(target, target[:, None].expand(2, 5, 16)).item() == pytest.approx(0, abs=1e-6)


def test_the_teachers_loss_leaves_room_for_what_sets_the_tokens_apart():
    query, target = torch.randn(2, 5, 16), torch.randn(2, 16)
    apart = 3 * (query - query.mean(1, keepdim=True))
    assert loss.llm(target, query + apart).item() == pytest.approx(loss.llm(target, query).item(), abs=1e-5)


def test_the_diffusion_loss_reaches_every_part_of_the_adapter_but_the_teachers(unet):
    made = adapter()
    nn.init.normal_(made.g.weight, std=0.1)
    total, terms = Objective(1.0, 0.0, 0.0, unet=unet, scheduler=Noise)(made, features())
    total.backward()
    reached = {name.split(".")[0] for name, p in made.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert terms.keys() == {"diffusion"} and reached == {"norm", "h1", "h2", "h3", "g"}


def test_the_teachers_loss_trains_the_query_and_the_projection_together():
    made = adapter()
    total, _ = Objective(0.0, 0.0, 1.0)(made, features())
    total.backward()
    assert made.projection.weight.grad.abs().max() > 0
    assert made.h3.layers[0].linear1.weight.grad.abs().max() > 0 and made.g.weight.grad is None


def test_a_weight_of_nought_leaves_its_term_out_and_the_unet_unasked(unet):
    _, terms = Objective(0.0, 1.0, 0.5, layers=layers(unet))(adapter(), features())
    assert terms.keys() == {"prompt", "llm"}
    with pytest.raises(ValueError, match="are all 0: give at least one of them a weight"):
        Objective(0.0, 0.0, 0.0)(adapter(), features())


def test_training_brings_the_loss_down_the_same_way_each_time(unet):
    def trained():
        made = adapter()
        history, _ = fit(
            made, Objective(0.0, 1.0, 0.01, layers=layers(unet)), features(64), features(8), steps=60, batch=16, lr=3e-3, every=20
        )
        return history, made(features().simple)

    (first, a), (second, b) = trained(), trained()
    assert first == second and torch.equal(a, b)
    assert first[-1]["prompt"] < 0.8 * first[0]["prompt"]
    assert [row["step"] for row in first] == [20, 40, 60] and "validation_loss" in first[0]


def test_muon_turns_the_matrices_and_adamw_the_rest_and_no_parameter_is_forgotten():
    made = adapter()
    muon, adamw = optimizers_of(made, 1e-3)
    held = [{id(p): p for group in o.param_groups for p in group["params"]} for o in (muon, adamw)]
    assert {p.ndim for p in held[0].values()} == {2} and held[0].keys().isdisjoint(held[1])
    assert len(held[0]) + len(held[1]) == len(list(made.parameters()))


@pytest.mark.parametrize("steps", [2, 10, 1700])
def test_the_learning_rate_goes_up_and_down_whatever_the_number_of_steps(steps):
    assert share(0, 1) == 1
    shares = [share(k, steps) for k in range(steps + 1)]
    assert max(shares) == 1 and shares[0] > 0 and shares[-1] == pytest.approx(0, abs=1e-9)
    top = shares.index(1)
    assert sorted(shares[: top + 1]) == shares[: top + 1] and sorted(shares[top:], reverse=True) == shares[top:]


def test_half_precision_trains_as_well_and_leaves_the_weights_whole(unet):
    def trained(precision):
        made = adapter()
        objective = Objective(0.0, 1.0, 0.01, layers=layers(unet))
        history, _ = fit(made, objective, features(64), features(8), steps=60, batch=16, lr=3e-3, every=20, precision=precision)
        assert {p.dtype for p in made.parameters()} == {torch.float32}
        return [row["loss"] for row in history]

    assert trained("bf16") == pytest.approx(trained("fp32"), rel=0.05)
    with pytest.raises(ValueError, match="precision is 'fp8': choose fp32 or bf16"):
        trained("fp8")


def test_the_frozen_unet_stays_frozen(unet):
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    fit(adapter(), Objective(1.0, 0.0, 0.0, unet=unet, scheduler=Noise), features(), features(4), steps=3, batch=4, lr=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())


def test_kl_between_softmaxes_matches_torchs_own():
    a, b = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    theirs = F.kl_div(b.log_softmax(-1).flatten(0, 1), a.softmax(-1).flatten(0, 1), reduction="batchmean")
    assert torch.isclose(loss.kl(a, b), theirs)
