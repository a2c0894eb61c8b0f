"""The objective: which parameters get gradients, what the frozen U-Net is given, and replaced prompts."""

import pytest
import torch
from helpers import training_setup as setup
from helpers.training_setup import adapter, features, gradients, layers, objective
from torch import nn

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.models.stable_diffusion import predict_noise
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.config import LossConfig
from sur_adapter.training.diffusion_loss import DiffusionLoss
from sur_adapter.training.distributed import DistributedContext

VELOCITY = {"prediction_type": "v_prediction"}


@pytest.fixture(scope="module")
def unet():
    return setup.unet()


def denoised(unet, made=None, batch=None, scheduler=None, **choices) -> torch.Tensor:
    loss_module = objective(1.0, 0.0, 0.0, unet=unet, scheduler=scheduler or setup.scheduler(), **choices)
    made, batch = made or adapter(trained=True), batch or features()
    torch.manual_seed(4)
    return loss_module(made, batch)[0]


class RecordingUNet(nn.Module):
    """A U-Net that records its inputs."""

    def __init__(self, unet):
        super().__init__()
        self.unet, self.config, self.dtype, self.inputs = unet, unet.config, unet.dtype, []

    def forward(self, noisy_latents, timesteps, prompt_embeds, **rest):
        self.inputs.append({"noisy_latents": noisy_latents, "timesteps": timesteps, "prompt_embeds": prompt_embeds, **rest})
        return self.unet(noisy_latents, timesteps, prompt_embeds, **rest)


def test_the_gradient_with_the_diffusion_term_differs_from_that_without(unet):
    def gradient(w_diffusion):
        made, loss_module = (
            adapter(trained=True),
            objective(w_diffusion, 1.0, 0.01, layers=layers(unet), unet=unet, scheduler=setup.scheduler()),
        )
        loss_module(made, features())[0].backward()
        return gradients(made)

    without, with_it = gradient(0.0), gradient(1.0)
    assert without.keys() == with_it.keys()
    assert not any(torch.allclose(without[name], with_it[name], rtol=1e-3) for name in without if not name.startswith("projection"))


def test_every_parameter_gets_a_gradient(unet):
    made = adapter(trained=True)
    objective(0.0, 1.0, 0.01, layers=layers(unet))(made, features())[0].backward()
    assert gradients(made).keys() == {name for name, _ in made.named_parameters()}


def test_the_frozen_unet_gets_no_gradients(unet):
    denoised(unet).backward()
    assert all(p.grad is None for p in unet.parameters())


def test_the_velocity_is_the_target_if_the_unet_predicts_it(unet):
    noise, velocity = (denoised(unet, scheduler=setup.scheduler(**kind)) for kind in ({}, VELOCITY))
    late = {"t_min": 999, "scheduler": setup.scheduler(**VELOCITY, rescale_betas_zero_snr=True)}
    assert not torch.isclose(noise, velocity)
    spy = RecordingUNet(unet)
    value = denoised(spy, **late)  # at zero SNR the velocity is minus the image
    mean, logvar = features().latents.unbind(1)
    torch.manual_seed(4)
    z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
    inputs = [spy.inputs[0][name] for name in ("noisy_latents", "timesteps", "prompt_embeds")]
    assert torch.isclose(value, (predict_noise(unet, *inputs) + z).square().mean(), rtol=1e-4)


def test_min_snr_lowers_only_the_weight_of_clean_images(unet):
    early, late = {"t_max": 100}, {"t_min": 900}
    assert denoised(unet, snr_gamma=5.0, **early) < 0.5 * denoised(unet, **early)
    assert torch.isclose(denoised(unet, snr_gamma=5.0, **late), denoised(unet, **late))


def test_timesteps_are_drawn_from_their_range(unet):
    spy = RecordingUNet(unet)
    denoised(spy, t_min=400, t_max=420, batch=features(200))
    assert spy.inputs[0]["timesteps"].min() == 400 and spy.inputs[0]["timesteps"].max() == 419


def test_noise_offset_shifts_each_channel_as_a_whole(unet):
    plain, moved = RecordingUNet(unet), RecordingUNet(unet)
    denoised(plain, t_min=999)
    denoised(moved, t_min=999, noise_offset=0.5)
    difference = moved.inputs[0]["noisy_latents"] - plain.inputs[0]["noisy_latents"]
    assert difference.std((2, 3)).max() < 1e-5 and difference.mean((2, 3)).std() > 0.3


def test_the_loss_to_the_unets_own_prediction_is_zero_for_the_complex_prompt(unet):
    batch = features()
    same = TrainingBatch(batch.complex, batch.complex, batch.teacher, batch.latents)
    assert denoised(unet, made=adapter(), batch=same, target="complex").item() == 0  # an untrained adapter is the identity
    made = adapter(trained=True)
    value = denoised(unet, made=made, target="complex")
    value.backward()
    assert value > 0 and "block.g.weight" in gradients(made)


def test_settings_that_the_scheduler_does_not_allow_are_refused(unet):
    def loss(scheduler, **config) -> DiffusionLoss:
        return DiffusionLoss(LossConfig(1.0, 0.0, 0.0, **config), unet, scheduler, {})

    with pytest.raises(ValueError, match=r"t_min is 900 and loss.t_max 2000: choose 0 <= t_min < t_max <= 1000"):
        loss(setup.scheduler(), t_min=900, t_max=2000)
    with pytest.raises(ValueError, match="this U-Net predicts 'sample'"):
        loss(setup.scheduler(prediction_type="sample"))
    with pytest.raises(ValueError, match="loss.rescale_betas_zero_snr needs a U-Net that predicts velocity"):
        loss(setup.scheduler(rescale_betas_zero_snr=True))
    loss(setup.scheduler(**VELOCITY, rescale_betas_zero_snr=True), t_min=400)


def test_an_emptied_prompt_reaches_the_unet_unadapted_and_the_adapter_should_not_change_it(unet):
    empty, spy, made = torch.randn(9, 32), RecordingUNet(unet), adapter(trained=True)
    loss_module = objective(1.0, 1.0, 1.0, unet=spy, scheduler=setup.scheduler(), empty_prompt_prob=1.0, empty_prompt=empty)
    _, terms = loss_module(made, features())
    assert torch.equal(spy.inputs[0]["prompt_embeds"], empty.expand(24, -1, -1))
    assert terms["llm"] == 0 and terms["prompt"] > 0
    assert objective(0.0, 1.0, 0.0, empty_prompt_prob=1.0, empty_prompt=empty)(adapter(), features())[0].abs() < 1e-6


def test_half_of_the_prompts_are_emptied_at_probability_one_half(unet):
    empty, spy = torch.randn(9, 32), RecordingUNet(unet)
    torch.manual_seed(6)
    objective(1.0, 0.0, 0.0, unet=spy, scheduler=setup.scheduler(), empty_prompt_prob=0.5, empty_prompt=empty)(adapter(), features(200))
    emptied = (spy.inputs[0]["prompt_embeds"] == empty).all((1, 2))
    assert 70 < emptied.sum() < 130
    assert torch.equal(spy.inputs[0]["prompt_embeds"][~emptied], features(200).simple[~emptied])


def test_the_adapter_should_not_change_a_complex_prompt_that_replaces_a_simple_one(unet):
    """An untrained adapter changes nothing, so its loss is 0; the LLM loss, whose vector is of the simple prompt, does not count."""
    batch = features(simple_length=torch.full((24,), 4), complex_length=torch.full((24,), 6))
    loss_module = objective(0.0, 1.0, 1.0, layers=layers(unet), complex_prompt_prob=1.0)
    assert loss_module(adapter(), batch)[1]["prompt"] < 1e-6 and loss_module(adapter(), batch)[1]["llm"] == 0
    assert loss_module(adapter(trained=True), batch)[1]["prompt"] > 0
    replaced, rows = loss_module._replace_simple(batch, None, DistributedContext())
    assert rows.all() and torch.equal(replaced.simple, batch.complex) and torch.equal(replaced.simple_length, batch.complex_length)


def test_a_third_of_the_simple_prompts_is_replaced_at_probability_one_third():
    batch = features(300)
    torch.manual_seed(6)
    replaced, rows = objective(0.0, 1.0, 0.0, complex_prompt_prob=1 / 3)._replace_simple(batch, None, DistributedContext())
    assert 70 < rows.sum() < 130
    assert torch.equal(replaced.simple, torch.where(rows[:, None, None], batch.complex, batch.simple))
    assert torch.equal(replaced.complex, batch.complex) and torch.equal(replaced.teacher, batch.teacher)


def test_masked_padding_does_not_count():
    short = {"simple_length": torch.full((24,), 4), "complex_length": torch.full((24,), 6)}
    batch, loss_module = features(**short), objective(0.0, 1.0, 0.0, mask_padding=True)
    other = TrainingBatch(batch.simple, torch.cat([batch.complex[:, :6], torch.randn(24, 3, 32)], 1), batch.teacher, **short)
    assert torch.equal(loss_module(adapter(), batch)[0], loss_module(adapter(), other)[0])
    with pytest.raises(ValueError, match="loss.mask_padding needs the lengths of the prompts, and the cache holds none"):
        loss_module(adapter(), features())


def test_llm_features_per_token_are_averaged_over_the_tokens_that_exist():
    tokens = torch.cat([torch.randn(24, 3, 20), torch.zeros(24, 2, 20)], 1)
    one = TrainingBatch(features().simple, features().complex, tokens[:, :3].mean(1))
    many = TrainingBatch(features().simple, features().complex, tokens)
    loss_module = objective(0.0, 0.0, 1.0)
    assert torch.allclose(loss_module(adapter(), one)[0], loss_module(adapter(), many)[0])


class Pooling(SURAdapter):
    """An adapter with a head for SDXL's pooled vector."""

    def __init__(self):
        torch.manual_seed(3)
        super().__init__(AdapterConfig(32, 20, heads=4))
        self.head = nn.Linear(24, 24)

    def pool(self, p, scale=None):
        return p + self.head(p)


def test_an_sdxl_unet_gets_the_adapted_pooled_vector_and_the_size_of_the_image():
    sdxl = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24 + 6 * 8}
    spy, made = RecordingUNet(setup.unet(**sdxl)), Pooling()
    batch = features(simple_pooled=torch.randn(24, 24), complex_pooled=torch.randn(24, 24))
    denoised(spy, made=made, batch=batch).backward()
    added = spy.inputs[0]["added_cond_kwargs"]
    assert torch.equal(added["text_embeds"], made.pool(batch.simple_pooled)) and added["time_ids"][0].tolist() == [64, 64, 0, 0, 64, 64]
    assert "head.weight" in gradients(made)
    with pytest.raises(ValueError, match="this U-Net needs pooled prompt embeddings"):
        denoised(spy, made=made)


def test_the_pooled_vector_is_part_of_the_prompt_loss(unet):
    made = Pooling()
    batch = features(simple_pooled=torch.randn(24, 24), complex_pooled=torch.randn(24, 24))
    loss_module = objective(0.0, 1.0, 0.0, layers=layers(unet))
    torch.manual_seed(0)
    tokens = loss_module(made, features())[0]
    torch.manual_seed(0)
    both = loss_module(made, batch)[0]
    both.backward()
    assert both > tokens + 1 and "head.weight" in gradients(made)
