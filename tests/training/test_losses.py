"""The three terms of the objective."""

import pytest
import torch
import torch.nn.functional as F
from helpers import training_setup as taught
from helpers.training_setup import adapter, features, layers

from sur_adapter.models.stable_diffusion import cross_attention_layers
from sur_adapter.training import losses as loss
from sur_adapter.training.objective import Objective


@pytest.fixture(scope="module")
def unet():
    return taught.unet()


def test_kl_is_nought_for_equals_positive_else_and_has_a_direction():
    a, b = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    assert loss.kl(a, a).item() == pytest.approx(0, abs=1e-6)
    assert loss.kl(a, b) > 0 and not torch.isclose(loss.kl(a, b), loss.kl(b, a))


def test_kl_of_two_known_distributions_is_what_the_equation_says():
    p, s = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    assert loss.kl(p.log()[None, None], s.log()[None, None]).item() == pytest.approx((p * (p / s).log()).sum().item(), abs=1e-6)


def test_the_layers_of_the_loss_are_the_layers_of_the_unet(unet):
    for module, layer in zip(cross_attention_layers(unet).values(), layers(unet), strict=True):
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
    made = adapter(awake=True)
    total, terms = Objective(1.0, 0.0, 0.0, unet=unet, scheduler=taught.scheduler())(made, features())
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


def test_kl_between_softmaxes_matches_torchs_own():
    a, b = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    theirs = F.kl_div(b.log_softmax(-1).flatten(0, 1), a.softmax(-1).flatten(0, 1), reduction="batchmean")
    assert torch.isclose(loss.kl(a, b), theirs)


def test_kl_turns_round_and_softens_as_the_equations_say():
    a, b = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    assert torch.allclose(loss.kl(a, b, direction="student_teacher"), loss.kl(b, a))
    assert torch.allclose(loss.kl(a, b, temperature=3.0), 9 * loss.kl(a / 3, b / 3))
    assert torch.allclose(loss.kl(a, b, tokens="sum"), 5 * loss.kl(a, b))


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
def test_either_way_round_teaches_the_student(direction):
    student = torch.randn(2, 5, 8, requires_grad=True)
    loss.kl(torch.randn(2, 5, 8), student, direction=direction).backward()
    assert student.grad.abs().max() > 0


def test_a_token_that_is_not_kept_changes_nothing_and_each_prompt_weighs_the_same():
    a, b = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    kept = torch.arange(5) < torch.tensor([2, 4])[:, None]
    value = loss.kl(a, b, kept)
    assert torch.allclose(value, (loss.kl(a[:1, :2], b[:1, :2]) + loss.kl(a[1:, :4], b[1:, :4])) / 2)
    other = torch.where(kept[..., None], b, torch.randn(2, 5, 8))
    assert torch.allclose(loss.kl(a, other, kept), value) and not torch.allclose(loss.kl(a, other), loss.kl(a, b))
    query, target = torch.randn(2, 5, 16), torch.randn(2, 16)
    assert torch.allclose(loss.llm(target[:1], query[:1], kept[:1]), loss.llm(target[:1], query[:1, :2]))


@pytest.mark.parametrize("kind, over", [("epsilon", 0), ("v_prediction", 1)])
def test_min_snr_holds_the_weight_of_a_picture_at_gamma(kind, over):
    snr = torch.tensor([0.0, 0.5, 5.0, 500.0])
    weight = loss.min_snr(snr, 5.0, kind)
    assert torch.allclose(weight[1:] * (snr[1:] + over), snr[1:].clamp(max=5.0))  # min(SNR, γ), as a weight of the picture itself
    assert weight.isfinite().all() and weight[0] == (1 if kind == "epsilon" else 0)


def test_the_weights_of_a_batch_of_pictures_are_each_pictures_own():
    target, prediction = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    atomic_write = loss.diffusion(target, prediction, torch.tensor([0.25, 1.0]))
    apart = [loss.diffusion(target[k : k + 1], prediction[k : k + 1]) for k in range(2)]
    assert torch.allclose(atomic_write, (0.25 * apart[0] + apart[1]) / 2)
    assert torch.equal(loss.diffusion(target, prediction), F.mse_loss(prediction, target))


def test_the_pooled_term_is_nought_for_equals_and_about_two_for_strangers():
    a, b = torch.randn(16, 40), torch.randn(16, 40)
    assert loss.pooled(a, a).item() == 0 and 1.5 < loss.pooled(a, b).item() < 2.5
    assert torch.allclose(loss.pooled(7 * a, 7 * b), loss.pooled(a, b)) and loss.pooled(a[:1], b[:1]) < 10
