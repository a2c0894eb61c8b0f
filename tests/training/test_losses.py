"""The three terms of the objective."""

import pytest
import torch
import torch.nn.functional as F
from helpers import training_setup as setup
from helpers.training_setup import adapter, features, layers, objective

from sur_adapter.models.stable_diffusion import cross_attention_layers
from sur_adapter.training import losses as loss


@pytest.fixture(scope="module")
def unet():
    return setup.unet()


def test_kl_is_zero_for_equal_inputs_positive_otherwise_and_not_symmetric():
    a, b = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    assert loss.kl(a, a).item() == pytest.approx(0, abs=1e-6)
    assert loss.kl(a, b) > 0 and not torch.isclose(loss.kl(a, b), loss.kl(b, a))


def test_kl_of_two_known_distributions_matches_the_equation():
    p, s = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    assert loss.kl(p.log()[None, None], s.log()[None, None]).item() == pytest.approx((p * (p / s).log()).sum().item(), abs=1e-6)


def test_the_layers_of_the_loss_are_the_layers_of_the_unet(unet):
    for module, layer in zip(cross_attention_layers(unet).values(), layers(unet), strict=True):
        hidden, embeds = torch.randn(2, 6, module.to_q.in_features), torch.randn(2, 9, 32)
        outputs = torch.cat([layer(module.to_q(h), w[None]) for h, w in zip(hidden, embeds, strict=True)])
        assert torch.allclose(outputs, module(hidden, encoder_hidden_states=embeds), atol=1e-5)


def test_attention_loss_is_zero_for_equal_prompts_and_about_two_for_unrelated_ones(unet):
    a, b = torch.randn(16, 9, 32), torch.randn(16, 9, 32)
    assert loss.prompt_attention(layers(unet), a, a).item() == 0
    assert 1.0 < loss.prompt_attention(layers(unet), a, b).item() < 3.0


def test_attention_loss_ignores_the_order_of_tokens_and_kl_does_not(unet):
    a = torch.randn(4, 9, 32)
    shuffled = a[:, torch.randperm(9)]
    assert loss.prompt_attention(layers(unet), a, shuffled).item() == pytest.approx(0, abs=1e-6)
    assert loss.kl(a, shuffled) > 0.1


def test_the_llm_loss_does_not_fall_when_the_query_becomes_flat():
    query = torch.randn(2, 5, 16)
    target = torch.randn(2, 16)
    assert loss.llm(target, 0.1 * query).item() == pytest.approx(loss.llm(target, query).item(), rel=0.05)
    assert loss.llm(target, target[:, None].expand(2, 5, 16)).item() == pytest.approx(0, abs=1e-6)


def test_the_llm_loss_ignores_differences_between_tokens():
    query, target = torch.randn(2, 5, 16), torch.randn(2, 16)
    apart = 3 * (query - query.mean(1, keepdim=True))
    assert loss.llm(target, query + apart).item() == pytest.approx(loss.llm(target, query).item(), abs=1e-5)


def test_the_diffusion_loss_trains_every_part_of_the_adapter_except_the_projection(unet):
    made = adapter(trained=True)
    total, terms = objective(1.0, 0.0, 0.0, unet=unet, scheduler=setup.scheduler())(made, features())
    total.backward()
    reached = {
        name.removeprefix("block.").split(".")[0] for name, p in made.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
    }
    assert terms.keys() == {"diffusion"} and reached == {"norm", "h1", "h2", "h3", "g"}


def test_the_llm_loss_trains_the_query_and_the_projection():
    made = adapter()
    total, _ = objective(0.0, 0.0, 1.0)(made, features())
    total.backward()
    assert made.projection.weight.grad.abs().max() > 0
    assert made.block.h3.layers[0].linear1.weight.grad.abs().max() > 0
    assert made.block.g.weight.grad is None


def test_a_term_of_weight_zero_is_not_computed(unet):
    _, terms = objective(0.0, 1.0, 0.5, layers=layers(unet))(adapter(), features())
    assert terms.keys() == {"prompt", "llm"}
    with pytest.raises(ValueError, match="are all 0: give at least one of them a weight"):
        objective(0.0, 0.0, 0.0)


def test_kl_matches_torchs_kl_div():
    a, b = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    theirs = F.kl_div(b.log_softmax(-1).flatten(0, 1), a.softmax(-1).flatten(0, 1), reduction="batchmean")
    assert torch.isclose(loss.kl(a, b), theirs)


def test_kl_direction_temperature_and_reduction_match_the_equations():
    a, b = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    assert torch.allclose(loss.kl(a, b, direction="student_teacher"), loss.kl(b, a))
    assert torch.allclose(loss.kl(a, b, temperature=3.0), 9 * loss.kl(a / 3, b / 3))
    assert torch.allclose(loss.kl(a, b, reduction="sum"), 5 * loss.kl(a, b))


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
def test_both_directions_of_kl_train_the_student(direction):
    student = torch.randn(2, 5, 8, requires_grad=True)
    loss.kl(torch.randn(2, 5, 8), student, direction=direction).backward()
    assert student.grad.abs().max() > 0


def test_a_masked_token_changes_nothing_and_each_prompt_has_the_same_weight():
    a, b = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    mask = torch.arange(5) < torch.tensor([2, 4])[:, None]
    value = loss.kl(a, b, mask)
    assert torch.allclose(value, (loss.kl(a[:1, :2], b[:1, :2]) + loss.kl(a[1:, :4], b[1:, :4])) / 2)
    other = torch.where(mask[..., None], b, torch.randn(2, 5, 8))
    assert torch.allclose(loss.kl(a, other, mask), value) and not torch.allclose(loss.kl(a, other), loss.kl(a, b))
    query, target = torch.randn(2, 5, 16), torch.randn(2, 16)
    assert torch.allclose(loss.llm(target[:1], query[:1], mask[:1]), loss.llm(target[:1], query[:1, :2]))


@pytest.mark.parametrize("kind, over", [("epsilon", 0), ("v_prediction", 1)])
def test_min_snr_limits_the_weight_of_an_image_to_gamma(kind, over):
    snr = torch.tensor([0.0, 0.5, 5.0, 500.0])
    weight = loss.min_snr(snr, 5.0, kind)
    assert torch.allclose(weight[1:] * (snr[1:] + over), snr[1:].clamp(max=5.0))  # min(SNR, γ), as a weight of the image
    assert weight.isfinite().all() and weight[0] == (1 if kind == "epsilon" else 0)


def test_each_image_of_a_batch_has_its_own_weight():
    target, prediction = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    batch = loss.diffusion(target, prediction, torch.tensor([0.25, 1.0]))
    apart = [loss.diffusion(target[k : k + 1], prediction[k : k + 1]) for k in range(2)]
    assert torch.allclose(batch, (0.25 * apart[0] + apart[1]) / 2)
    assert torch.equal(loss.diffusion(target, prediction), F.mse_loss(prediction, target))


def test_the_pooled_loss_is_zero_for_equal_vectors_and_about_two_for_unrelated_ones():
    a, b = torch.randn(16, 40), torch.randn(16, 40)
    assert loss.pooled(a, a).item() == 0 and 1.5 < loss.pooled(a, b).item() < 2.5
    assert torch.allclose(loss.pooled(7 * a, 7 * b), loss.pooled(a, b)) and loss.pooled(a[:1], b[:1]) < 10
