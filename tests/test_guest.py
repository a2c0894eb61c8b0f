"""An adapter in a pipeline is a guest: it enters, adapts the positive prompt, and leaves without a trace."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from miniature.pretrain.clip import train_tokenizer
from sur_adapter import SURAdapter, attach
from sur_adapter.adapter import AdapterConfig
from sur_adapter.fingerprint import fingerprint

LENGTH = 12


def text_config(tokenizer, width: int, **changed) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **changed,
    )


def unet(width: int, **changed) -> UNet2DConditionModel:
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",), "block_out_channels": (16,)}
    sizes = {"layers_per_block": 1, "cross_attention_dim": width, "attention_head_dim": 2, "norm_num_groups": 8}
    return UNet2DConditionModel(8, **blocks, **sizes, **changed)


def parts(seed: int):
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(["three red circles", "a blue star waves"], LENGTH)
    return tokenizer, AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)


def pipeline(cls=StableDiffusionPipeline, width: int = 32, seed: int = 0, **changed):
    tokenizer, vae = parts(seed)
    text, scheduler = CLIPTextModel(text_config(tokenizer, width, **changed)), DDIMScheduler(clip_sample=False, steps_offset=1)
    pipe = cls(vae, text, tokenizer, unet(width), scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def second(cls=StableDiffusionPipeline, seed: int = 0):
    """As SD 2.x: a wider text encoder with gelu, linear projections in the U-Net, v-prediction."""
    pipe = pipeline(cls, 64, seed, hidden_act="gelu")
    pipe.unet = unet(64, use_linear_projection=True)
    pipe.scheduler = DDIMScheduler(clip_sample=False, steps_offset=1, prediction_type="v_prediction")
    return pipe


def xl(cls=StableDiffusionXLPipeline, widths=(32, 48), pooled: int = 20, seed: int = 0):
    """As SDXL: two text encoders side by side, and a pooled vector of the second."""
    (tokenizer, vae), scheduler = parts(seed), DDIMScheduler(clip_sample=False, steps_offset=1)
    first = CLIPTextModel(text_config(tokenizer, widths[0]))
    other = CLIPTextModelWithProjection(text_config(tokenizer, widths[1], hidden_act="gelu", projection_dim=pooled))
    ids = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": pooled + 6 * 8}
    pipe = cls(vae, first, other, tokenizer, tokenizer, unet(sum(widths), **ids), scheduler, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


ALL = {"sd 1.x": pipeline, "sd 2.x": second, "sdxl": xl}
every_model = pytest.mark.parametrize("model", ALL)


def adapter(pipe, trained: bool = True, **changed) -> SURAdapter:
    torch.manual_seed(5)
    encoders = {name: getattr(pipe, name) for name in ("text_encoder", "text_encoder_2") if hasattr(pipe, name)}
    about = {"base_model": "tiny/base"} | {name: fingerprint(encoder) for name, encoder in encoders.items()}
    pooled = encoders["text_encoder_2"].config.projection_dim if len(encoders) > 1 else 0
    width = sum(encoder.config.hidden_size for encoder in encoders.values())
    made = SURAdapter(AdapterConfig(**{"width": width, "heads": 4, "pooled_width": pooled, "about": about} | changed))
    if trained:
        for parameter in made.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.3)
    return made.eval().requires_grad_(False)


def draw(pipe, prompts=("three red circles",), **kwargs) -> np.ndarray:
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(len(prompts))])
    return pipe(
        list(prompts), latents=noise, num_inference_steps=2, guidance_scale=3.0, height=8, width=8, output_type="np", **kwargs
    ).images


def encode(pipe, prompt="a blue star", guided: bool = True, **kwargs):
    """What the pipeline knows of a prompt, (positive, negative, and of SDXL pooled, negative pooled)."""
    return pipe.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=guided, **kwargs)


@every_model
@pytest.mark.parametrize("variant", ["sur", "paper", "official"])
def test_it_changes_the_picture_and_leaves_without_a_trace(model, variant):
    pipe = ALL[model]()
    before = draw(pipe)
    handle = attach(pipe, adapter(pipe, variant=variant))
    assert not np.array_equal(draw(pipe), before)
    handle.remove()
    assert np.array_equal(draw(pipe), before) and "encode_prompt" not in pipe.__dict__
    handle.remove()


@every_model
@pytest.mark.parametrize("variant", ["sur", "paper", "official"])
def test_at_strength_nought_it_is_the_base_model_bit_for_bit(model, variant):
    pipe = ALL[model]()
    before = draw(pipe)
    handle = attach(pipe, adapter(pipe, variant=variant), strength=0.0)
    assert np.array_equal(draw(pipe), before)
    handle.strength = 1.0
    assert not np.array_equal(draw(pipe), before)


@every_model
def test_an_untrained_adapter_is_the_base_model_bit_for_bit(model):
    pipe = ALL[model]()
    before = draw(pipe)
    attach(pipe, adapter(pipe, trained=False))
    assert np.array_equal(draw(pipe), before)


@every_model
@pytest.mark.parametrize("variant", ["sur", "paper", "official"])
def test_the_negative_prompt_and_the_unconditional_branch_stay_as_they_are(model, variant):
    pipe = ALL[model]()
    asked = [{"negative_prompt": "three red circles"}, {}]
    own = [encode(pipe, **words) for words in asked]
    attach(pipe, adapter(pipe, variant=variant))
    for words, before in zip(asked, own, strict=True):
        after = encode(pipe, **words)
        same = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
        assert same == ([False, True, False, True] if model == "sdxl" else [False, True])


def test_pooled_vectors_are_left_alone_by_an_adapter_without_a_head_for_them():
    pipe = xl()
    own = encode(pipe)
    attach(pipe, adapter(pipe, pooled_width=0))
    assert [torch.equal(a, b) for a, b in zip(encode(pipe), own, strict=True)] == [False, True, True, True]


def test_without_guidance_there_is_no_negative_to_keep():
    for make in ALL.values():
        pipe = make()
        attach(pipe, adapter(pipe))
        assert encode(pipe, guided=False)[1] is None


@every_model
def test_the_same_prompt_and_noise_draw_the_same_picture_whatever_the_batch(model):
    pipe = ALL[model]()
    attach(pipe, adapter(pipe))
    together = draw(pipe, ("three red circles", "a blue star waves"))
    assert np.allclose(together[:1], draw(pipe), atol=1e-4)


@every_model
def test_features_that_the_caller_made_stay_the_callers(model):
    pipe = ALL[model]()
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    own = dict(zip(names, encode(pipe), strict=False))
    attach(pipe, adapter(pipe))
    assert all(torch.equal(a, b) for a, b in zip(encode(pipe, None, **own), own.values(), strict=True))


def test_features_that_the_caller_gave_without_their_name_stay_the_callers_too():
    pipe = pipeline()
    own, empty = pipe.encode_prompt("a blue star", "cpu", 1, True)
    attach(pipe, adapter(pipe))
    assert torch.equal(pipe.encode_prompt(None, "cpu", 1, True, None, own, empty)[0], own)


@pytest.mark.parametrize(("model", "cls"), [("sd 1.x", StableDiffusionImg2ImgPipeline), ("sdxl", StableDiffusionXLImg2ImgPipeline)])
def test_image_to_image_takes_the_same_guest(model, cls):
    pipe = ALL[model](cls)
    start = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def go():
        generator = torch.Generator().manual_seed(0)
        return pipe("a blue star", image=start, strength=1.0, num_inference_steps=2, generator=generator, output_type="np").images

    before = go()
    handle = attach(pipe, adapter(pipe))
    assert not np.array_equal(go(), before)
    handle.remove()
    assert np.array_equal(go(), before)


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_text_features_are_adapted_in_their_own_type(model, dtype):
    pipe = ALL[model]()
    guest = adapter(pipe)
    exact = guest(encode(pipe)[0]).detach()
    pipe.to(dtype)
    attach(pipe, guest)
    adapted = encode(pipe)
    assert {t.dtype for t in adapted} == {dtype}
    assert (adapted[0].float() - exact).norm() < 0.02 * exact.norm()


def test_an_adapter_in_half_precision_adapts_whole_features():
    pipe = pipeline()
    own = encode(pipe)[0]
    attach(pipe, adapter(pipe).bfloat16())
    assert encode(pipe)[0].dtype == torch.float32 and not torch.equal(encode(pipe)[0], own)


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_another_base_model_is_refused_with_the_name_of_the_right_one_and_left_as_it_was(model, dtype):
    guest = adapter(ALL[model]())
    attach(ALL[model]().to(dtype), guest)
    stranger = ALL[model](seed=1).to(dtype)
    with pytest.raises(ValueError, match="trained for the text encoder of tiny/base, and this pipeline has another: load tiny/base"):
        attach(stranger, guest)
    for other in ALL.keys() - {model}:
        with pytest.raises(ValueError, match=r"trained for tiny/base with text features \d+ wide, but those of this pipeline are \d+ wide"):
            attach(ALL[other]().to(dtype), guest)
    assert "encode_prompt" not in stranger.__dict__


def test_the_second_text_encoder_must_be_the_right_one_as_well():
    guest, other = adapter(xl()), xl()
    other.text_encoder_2 = xl(seed=1).text_encoder_2
    with pytest.raises(ValueError, match="has another: load tiny/base"):
        attach(other, guest)
    with pytest.raises(ValueError, match="tiny/base with pooled vectors 20 wide, which this pipeline has not: load tiny/base"):
        attach(xl(pooled=24), guest)


def test_a_pipeline_without_its_text_encoder_has_no_prompt_to_adapt():
    pipe = pipeline()
    guest = adapter(pipe)
    pipe.text_encoder = None
    with pytest.raises(ValueError, match="loaded without a text encoder, so there is no prompt to adapt: load it whole"):
        attach(pipe, guest)


def test_two_adapters_at_once_are_refused():
    pipe = pipeline()
    attach(pipe, adapter(pipe))
    with pytest.raises(ValueError, match="attached to this pipeline already"):
        attach(pipe, adapter(pipe))
