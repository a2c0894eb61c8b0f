"""Tiny untrained diffusers pipelines of the real classes (SD 1, SD 2, SDXL), and adapters for them."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from miniature.pretrain.vocabulary import MIN_COUNT, build_tokenizer
from sur_adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.models.fingerprint import fingerprint

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


@cache
def _vocabulary() -> dict:
    """Pieces and merges of a tokenizer that has one token for each word of the two prompts."""
    tokenizer = build_tokenizer(["three red circles", "a blue star waves"] * MIN_COUNT, 600, LENGTH)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def parts(seed: int):
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer(**_vocabulary(), model_max_length=LENGTH)  # a copy.deepcopy decodes without spaces
    return tokenizer, AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)


def pipeline(cls=StableDiffusionPipeline, width: int = 32, seed: int = 0, **changed):
    tokenizer, vae = parts(seed)
    text, scheduler = CLIPTextModel(text_config(tokenizer, width, **changed)), DDIMScheduler(clip_sample=False, steps_offset=1)
    pipe = cls(vae, text, tokenizer, unet(width), scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def second(cls=StableDiffusionPipeline, seed: int = 0):
    """Like SD 2.x: a wider text encoder with gelu, linear projections in the U-Net, v-prediction."""
    pipe = pipeline(cls, 64, seed, hidden_act="gelu")
    pipe.unet = unet(64, use_linear_projection=True)
    pipe.scheduler = DDIMScheduler(clip_sample=False, steps_offset=1, prediction_type="v_prediction")
    return pipe


def xl(cls=StableDiffusionXLPipeline, widths=(32, 48), pooled: int = 20, seed: int = 0):
    """Like SDXL: two text encoders side by side, and a pooled vector of the second."""
    (tokenizer, vae), scheduler = parts(seed), DDIMScheduler(clip_sample=False, steps_offset=1)
    first = CLIPTextModel(text_config(tokenizer, widths[0]))
    other = CLIPTextModelWithProjection(text_config(tokenizer, widths[1], hidden_act="gelu", projection_dim=pooled))
    ids = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": pooled + 6 * 8}
    pipe = cls(vae, first, other, tokenizer, tokenizer, unet(sum(widths), **ids), scheduler, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


PIPELINES = {"sd 1.x": pipeline, "sd 2.x": second, "sdxl": xl}
every_model = pytest.mark.parametrize("model", PIPELINES)


def make_adapter(pipe, trained: bool = True, **changed) -> SURAdapter:
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
        list(prompts),
        latents=noise.to(pipe.unet.dtype),
        num_inference_steps=2,
        guidance_scale=3.0,
        height=8,
        width=8,
        output_type="np",
        **kwargs,
    ).images


@torch.no_grad()
def encode(pipe, prompt="a blue star", guided: bool = True, **kwargs):
    """encode_prompt of the pipeline: (positive, negative), for SDXL also (pooled, negative pooled)."""
    return pipe.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=guided, **kwargs)
