"""An adapter in a pipeline is a guest: it enters, adapts the positive prompt, and leaves without a trace."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from miniature.pretrain.clip import train_tokenizer
from sur_adapter import SURAdapter, attach
from sur_adapter.adapter import AdapterConfig, fingerprint

LENGTH = 12


def pipeline(cls=StableDiffusionPipeline, width: int = 32, seed: int = 0):
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(["three red circles", "a blue star waves"], LENGTH)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",), "block_out_channels": (16,)}
    unet = UNet2DConditionModel(8, **blocks, layers_per_block=1, cross_attention_dim=width, attention_head_dim=2, norm_num_groups=8)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    pipe = cls(vae, CLIPTextModel(text), tokenizer, unet, DDIMScheduler(), None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def adapter(pipe, trained: bool = True) -> SURAdapter:
    torch.manual_seed(5)
    about = {"base_model": "tiny/base", "text_encoder": fingerprint(pipe.text_encoder)}
    made = SURAdapter(AdapterConfig(pipe.text_encoder.config.hidden_size, heads=4, about=about))
    if trained:
        nn.init.normal_(made.g.weight, std=0.3)
    return made.eval().requires_grad_(False)


def draw(pipe, prompts=("three red circles",), **kwargs) -> np.ndarray:
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(len(prompts))])
    return pipe(
        list(prompts), latents=noise, num_inference_steps=2, guidance_scale=3.0, height=8, width=8, output_type="np", **kwargs
    ).images


def test_it_changes_the_picture_and_leaves_without_a_trace():
    pipe = pipeline()
    before = draw(pipe)
    handle = attach(pipe, adapter(pipe))
    assert not np.array_equal(draw(pipe), before)
    handle.remove()
    assert np.array_equal(draw(pipe), before) and "encode_prompt" not in pipe.__dict__
    handle.remove()


def test_at_strength_nought_it_is_the_base_model_bit_for_bit():
    pipe = pipeline()
    before = draw(pipe)
    handle = attach(pipe, adapter(pipe), strength=0.0)
    assert np.array_equal(draw(pipe), before)
    handle.strength = 1.0
    assert not np.array_equal(draw(pipe), before)


def test_an_untrained_adapter_is_the_base_model_bit_for_bit():
    pipe = pipeline()
    before = draw(pipe)
    attach(pipe, adapter(pipe, trained=False))
    assert np.array_equal(draw(pipe), before)


def test_the_negative_prompt_and_the_unconditional_branch_stay_as_they_are():
    pipe = pipeline()
    own = pipe.encode_prompt("a blue star", "cpu", 1, True, negative_prompt="three red circles")
    attach(pipe, adapter(pipe))
    adapted = pipe.encode_prompt("a blue star", "cpu", 1, True, negative_prompt="three red circles")
    assert not torch.equal(adapted[0], own[0]) and torch.equal(adapted[1], own[1])


def test_the_same_prompt_and_noise_draw_the_same_picture_whatever_the_batch():
    pipe = pipeline()
    attach(pipe, adapter(pipe))
    together = draw(pipe, ("three red circles", "a blue star waves"))
    assert np.allclose(together[:1], draw(pipe), atol=1e-4)


def test_features_that_the_caller_made_stay_the_callers():
    pipe = pipeline()
    own, empty = pipe.encode_prompt("a blue star", "cpu", 1, True)
    attach(pipe, adapter(pipe))
    assert torch.equal(pipe.encode_prompt(None, "cpu", 1, True, prompt_embeds=own, negative_prompt_embeds=empty)[0], own)


def test_image_to_image_takes_the_same_guest():
    pipe = pipeline(StableDiffusionImg2ImgPipeline)
    start = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def go():
        generator = torch.Generator().manual_seed(0)
        return pipe("a blue star", image=start, strength=1.0, num_inference_steps=2, generator=generator, output_type="np").images

    before = go()
    handle = attach(pipe, adapter(pipe))
    assert not np.array_equal(go(), before)
    handle.remove()
    assert np.array_equal(go(), before)


def test_half_precision_text_features_are_adapted_in_their_own_type():
    pipe = pipeline()
    guest = adapter(pipe)
    pipe.text_encoder.to(torch.bfloat16)
    attach(pipe, guest)
    assert pipe.encode_prompt("a blue star", "cpu", 1, False)[0].dtype == torch.bfloat16


def test_another_base_model_is_refused_with_the_name_of_the_right_one_and_left_as_it_was():
    guest = adapter(pipeline())
    for other, reason in ((pipeline(width=64), "with text features 32 wide, but those of .* are 64"), (pipeline(seed=1), "has another")):
        with pytest.raises(ValueError, match=f"trained for .*tiny/base.*{reason}|trained for .*tiny/base.*has another"):
            attach(other, guest)
        assert "encode_prompt" not in other.__dict__


def test_two_adapters_at_once_are_refused():
    pipe = pipeline()
    attach(pipe, adapter(pipe))
    with pytest.raises(ValueError, match="attached to this pipeline already"):
        attach(pipe, adapter(pipe))
