"""The objective: what reaches the adapter, what the frozen U-Net is asked, and what becomes of the empty prompt."""

import pytest
import torch
from helpers import training_setup as taught
from helpers.training_setup import adapter, features, gradients, layers
from torch import nn

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.models.stable_diffusion import predict_noise
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.diffusion_loss import Denoising
from sur_adapter.training.distributed import DistributedContext
from sur_adapter.training.objective import Objective

VELOCITY = {"prediction_type": "v_prediction"}


@pytest.fixture(scope="module")
def unet():
    return taught.unet()


def denoised(unet, made=None, batch=None, scheduler=None, **choices) -> torch.Tensor:
    goal = Objective(1.0, 0.0, 0.0, unet=unet, scheduler=scheduler or taught.scheduler(), denoising=Denoising(**choices))
    made, batch = made or adapter(awake=True), batch or features()
    torch.manual_seed(4)
    return goal(made, batch)[0]


class Listening(nn.Module):
    """A U-Net that remembers what it was asked."""

    def __init__(self, unet):
        super().__init__()
        self.unet, self.config, self.dtype, self.heard = unet, unet.config, unet.dtype, []

    def forward(self, noised, t, words, **rest):
        self.heard.append({"noised": noised, "t": t, "words": words, **rest})
        return self.unet(noised, t, words, **rest)


def test_the_gradient_with_the_diffusion_term_differs_from_that_without(unet):
    def gradient(w_diffusion):
        made, goal = adapter(awake=True), Objective(w_diffusion, 1.0, 0.01, layers=layers(unet), unet=unet, scheduler=taught.scheduler())
        goal(made, features())[0].backward()
        return gradients(made)

    without, with_it = gradient(0.0), gradient(1.0)
    assert without.keys() == with_it.keys()
    assert not any(torch.allclose(without[name], with_it[name], rtol=1e-3) for name in without if not name.startswith("projection"))


def test_no_parameter_is_dead(unet):
    made = adapter(awake=True)
    Objective(0.0, 1.0, 0.01, layers=layers(unet))(made, features())[0].backward()
    assert gradients(made).keys() == {name for name, _ in made.named_parameters()}


def test_the_frozen_unet_asks_for_no_gradient_of_its_weights(unet):
    denoised(unet).backward()
    assert all(p.grad is None for p in unet.parameters())


def test_a_velocity_is_the_target_where_the_unet_predicts_one(unet):
    noise, velocity = (denoised(unet, scheduler=taught.scheduler(**kind)) for kind in ({}, VELOCITY))
    late = {"t_min": 999, "scheduler": taught.scheduler(**VELOCITY, rescale_betas_zero_snr=True)}
    assert not torch.isclose(noise, velocity)
    spy = Listening(unet)
    value = denoised(spy, **late)  # at no signal at all the velocity is minus the picture
    mean, logvar = features().latents.unbind(1)
    torch.manual_seed(4)
    z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
    asked = [spy.heard[0][name] for name in ("noised", "t", "words")]
    assert torch.isclose(value, (predict_noise(unet, *asked) + z).square().mean(), rtol=1e-4)


def test_min_snr_takes_weight_from_the_clean_pictures_alone(unet):
    early, late = {"t_max": 100}, {"t_min": 900}
    assert denoised(unet, snr_gamma=5.0, **early) < 0.5 * denoised(unet, **early)
    assert torch.isclose(denoised(unet, snr_gamma=5.0, **late), denoised(unet, **late))


def test_times_are_drawn_from_their_range_alone(unet):
    spy = Listening(unet)
    denoised(spy, t_min=400, t_max=420, batch=features(200))
    assert spy.heard[0]["t"].min() == 400 and spy.heard[0]["t"].max() == 419


def test_offset_noise_moves_each_channel_as_a_whole(unet):
    plain, moved = Listening(unet), Listening(unet)
    denoised(plain, t_min=999)
    denoised(moved, t_min=999, offset_noise=0.5)
    apart = moved.heard[0]["noised"] - plain.heard[0]["noised"]
    assert apart.std((2, 3)).max() < 1e-5 and apart.mean((2, 3)).std() > 0.3


def test_the_unets_own_prediction_as_target_is_met_when_the_words_are_the_complex_ones(unet):
    batch = features()
    same = TrainingBatch(batch.complex, batch.complex, batch.teacher, batch.latents)
    assert denoised(unet, made=adapter(), batch=same, target="complex").item() == 0  # an untrained adapter is the identity
    made = adapter(awake=True)
    value = denoised(unet, made=made, target="complex")
    value.backward()
    assert value > 0 and "g.weight" in gradients(made)


def test_a_choice_that_the_scheduler_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"t_min is 900 and loss.t_max 100: choose 0 <= t_min < t_max <= 1000"):
        Denoising(t_min=900, t_max=100).check(taught.scheduler())
    with pytest.raises(ValueError, match="this U-Net predicts 'sample'"):
        Denoising().check(taught.scheduler(prediction_type="sample"))
    with pytest.raises(ValueError, match="loss.zero_snr asks for a U-Net that predicts the velocity"):
        Denoising().check(taught.scheduler(rescale_betas_zero_snr=True))
    Denoising(t_min=400).check(taught.scheduler(**VELOCITY, rescale_betas_zero_snr=True))


def test_a_dropped_prompt_is_the_empty_one_plain_for_the_unet_and_to_be_left_alone_by_the_adapter(unet):
    empty, spy, made = torch.randn(9, 32), Listening(unet), adapter(awake=True)
    goal = Objective(1.0, 1.0, 1.0, unet=spy, scheduler=taught.scheduler(), drop_condition=1.0, empty=empty)
    _, terms = goal(made, features())
    assert torch.equal(spy.heard[0]["words"], empty.expand(24, -1, -1))
    assert terms["llm"] == 0 and terms["prompt"] > 0
    assert Objective(0.0, 1.0, 0.0, drop_condition=1.0, empty=empty)(adapter(), features())[0].abs() < 1e-6


def test_half_of_the_prompts_are_dropped_where_half_are_asked_for(unet):
    empty, spy = torch.randn(9, 32), Listening(unet)
    torch.manual_seed(6)
    Objective(1.0, 0.0, 0.0, unet=spy, scheduler=taught.scheduler(), drop_condition=0.5, empty=empty)(adapter(), features(200))
    dropped = (spy.heard[0]["words"] == empty).all((1, 2))
    assert 70 < dropped.sum() < 130
    assert torch.equal(spy.heard[0]["words"][~dropped], features(200).simple[~dropped])


def test_a_keyword_prompt_in_a_sentences_place_is_to_be_left_as_it_is(unet):
    """By an untrained adapter, which changes nothing, it is; and what the teacher read is not asked of it."""
    batch = features(simple_length=torch.full((24,), 4), complex_length=torch.full((24,), 6))
    goal = Objective(0.0, 1.0, 1.0, layers=layers(unet), keep_complex=1.0)
    assert goal(adapter(), batch)[1]["prompt"] < 1e-6 and goal(adapter(), batch)[1]["llm"] == 0
    assert goal(adapter(awake=True), batch)[1]["prompt"] > 0
    asked, chosen = goal._keep(batch, DistributedContext())
    assert chosen.all() and torch.equal(asked.simple, batch.complex) and torch.equal(asked.simple_length, batch.complex_length)


def test_a_third_of_the_keyword_prompts_is_kept_where_a_third_is_asked_for_and_the_other_sentences_stay():
    batch = features(300)
    torch.manual_seed(6)
    asked, chosen = Objective(0.0, 1.0, 0.0, keep_complex=1 / 3)._keep(batch, DistributedContext())
    assert 70 < chosen.sum() < 130
    assert torch.equal(asked.simple, torch.where(chosen[:, None, None], batch.complex, batch.simple))
    assert torch.equal(asked.complex, batch.complex) and torch.equal(asked.teacher, batch.teacher)


def test_padding_does_not_count_where_it_is_masked():
    short = {"simple_length": torch.full((24,), 4), "complex_length": torch.full((24,), 6)}
    batch, goal = features(**short), Objective(0.0, 1.0, 0.0, mask=True)
    other = TrainingBatch(batch.simple, torch.cat([batch.complex[:, :6], torch.randn(24, 3, 32)], 1), batch.teacher, **short)
    assert torch.equal(goal(adapter(), batch)[0], goal(adapter(), other)[0])
    with pytest.raises(ValueError, match="loss.mask asks for the lengths of the prompts, and the cache holds none"):
        goal(adapter(), features())


def test_a_teacher_of_tokens_is_the_mean_of_those_that_are_there():
    tokens = torch.cat([torch.randn(24, 3, 20), torch.zeros(24, 2, 20)], 1)
    one = TrainingBatch(features().simple, features().complex, tokens[:, :3].mean(1))
    many = TrainingBatch(features().simple, features().complex, tokens)
    goal = Objective(0.0, 0.0, 1.0)
    assert torch.allclose(goal(adapter(), one)[0], goal(adapter(), many)[0])


class Pooling(SURAdapter):
    """An adapter with a head for SDXL's pooled vector."""

    def __init__(self):
        torch.manual_seed(3)
        super().__init__(AdapterConfig(32, 20, heads=4))
        self.head = nn.Linear(24, 24)

    def pool(self, pooled, strength=None):
        return pooled + self.head(pooled)


def test_an_sdxl_unet_gets_the_adapted_pooled_vector_and_the_size_of_the_picture():
    sdxl = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24 + 6 * 8}
    spy, made = Listening(taught.unet(**sdxl)), Pooling()
    batch = features(simple_pooled=torch.randn(24, 24), complex_pooled=torch.randn(24, 24))
    denoised(spy, made=made, batch=batch).backward()
    added = spy.heard[0]["added_cond_kwargs"]
    assert torch.equal(added["text_embeds"], made.pool(batch.simple_pooled)) and added["time_ids"][0].tolist() == [64, 64, 0, 0, 64, 64]
    assert "head.weight" in gradients(made)
    with pytest.raises(ValueError, match="this U-Net needs pooled prompt embeddings"):
        denoised(spy, made=made)


def test_the_pooled_vector_is_part_of_the_prompt_term(unet):
    made = Pooling()
    batch = features(simple_pooled=torch.randn(24, 24), complex_pooled=torch.randn(24, 24))
    goal = Objective(0.0, 1.0, 0.0, layers=layers(unet))
    torch.manual_seed(0)
    words = goal(made, features())[0]
    torch.manual_seed(0)
    both = goal(made, batch)[0]
    both.backward()
    assert both > words + 1 and "head.weight" in gradients(made)
