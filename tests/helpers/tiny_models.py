"""Tiny untrained models of the real classes, in the layout of the hub: Stable Diffusion 1, 2 and XL, and language models."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from ruamel.yaml import YAML
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from helpers.repository import ROOT
from helpers.small_models import encode
from helpers.stages import READS_ALL
from sur_adapter.config import from_dict
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.io.schema import record_id
from sur_adapter.io.shards import write_table, write_tar
from sur_adapter.models.config import ModelsConfig
from sur_adapter.registry import load

FAMILIES = ("sd1", "sd2", "sdxl")
LLMS = ("Llama", "Mistral", "Qwen3", "Gemma3", "GPT2")
COLOURS = ("red", "green", "blue", "white", "black", "yellow", "pink", "brown")
SIZES = ((64, 64), (90, 60), (50, 70), (64, 64), (80, 40), (33, 99), (64, 64), (64, 32))


def diffusion(folder: Path, family: str) -> str:
    """A pipeline whose prompt embeddings are 32 (sd1), 48 (sd2) or 32 + 48 (sdxl) wide."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "models/miniature/stable-diffusion/tokenizer")
    width = {"sd1": 32, "sd2": 48, "sdxl": 80}[family]
    time = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24 + 6 * 8}
    parts = {
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(text_config(tokenizer, 48 if family == "sd2" else 32, "gelu" if family == "sd2" else "quick_gelu")),
        "unet": UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=4,
            norm_num_groups=16,
            **(time if family == "sdxl" else {}),
        ),
        "vae": AutoencoderKL(
            block_out_channels=(16, 16, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=8,
        ),
        "scheduler": DDIMScheduler(prediction_type="v_prediction" if family == "sd2" else "epsilon", clip_sample=False, steps_offset=1),
    }
    if family == "sdxl":
        parts |= {"tokenizer_2": tokenizer, "text_encoder_2": CLIPTextModelWithProjection(text_config(tokenizer, 48, "gelu", 24))}
        pipe = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.save_pretrained(folder)
    return str(folder)


def text_config(tokenizer, width: int, act: str, projection: int = 32) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act=act,
        projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_factor=5.0,  # large enough that embeddings of different prompts differ
    )


def llm(folder: Path, kind: str, layers: int = 4) -> str:
    """A causal LM of a class, 32 wide, without a padding token, as published LLaMAs are."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models/miniature/llama")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4, "head_dim": 8}
    sizes |= {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 96, "initializer_range": 0.3}
    sizes |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    if kind == "GPT2":
        sizes = {"n_embd": 32, "n_layer": layers, "n_head": 4, "vocab_size": len(tokenizer), "n_positions": 96, "initializer_range": 0.3}
    config = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")(**sizes)
    model = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)
    model.save_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    if kind in ("Qwen3", "GPT2"):  # these have no start token
        changed = {"tokenizer.json": {"post_processor": None}, "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}}
        for name, values in changed.items():
            (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))
    return str(folder)


class Images(dict):
    """Images in memory, where a stage has an ImageIndex."""

    def files(self, ids) -> set[Path]:
        return set()


def pairs(count: int = 8) -> tuple[pd.DataFrame, Images]:
    """Kept pairs of eight colours and four sentences, and their images."""
    data = [encode(_speckled(COLOURS[i % 8], SIZES[i % 8], i)) for i in range(count)]
    rows = [
        {
            "id": record_id(bytes_),
            "split": "validation" if i % 4 == 3 else "train",
            "simple_prompt": ["there is a red circle", "two blue squares", "a cat", "three green stars in a row"][i // 2 % 4],
            "complex_prompt": f"masterpiece, {COLOURS[i % 8]}, {i}, 8k",
            "dropped": None,
        }
        for i, bytes_ in enumerate(data)
    ]
    return pd.DataFrame(rows), Images(zip((r["id"] for r in rows), data, strict=True))


def extract(
    features: str, rows: pd.DataFrame, out: Path, models: dict, images: dict | None = None, executor: dict | None = None, **settings
) -> None:
    """Runs a feature extractor with settings that are checked as those of params.yaml are."""
    extractor = load("sur_adapter.features.extractors", features)
    config = from_dict(extractor.Config, settings, f"cache.{features}")
    frozen = from_dict(ModelsConfig, {"resolution": 64} | models, "models")
    extractor.extract(rows, images, out, config, frozen, from_dict(ExecutorConfig, executor, "executor"))


def models(folder: Path) -> dict:
    """Section `models` of params.yaml."""
    return {"diffusion": diffusion(folder / "sd1", "sd1"), "llm": llm(folder / "llm", "Llama"), "resolution": 64}


def home(folder: Path, models: dict, count: int = 40) -> Path:
    """Pairs, images and params.yaml on disk, as the stage reads them."""
    rows, images = pairs(count)
    write_table(folder / "pairs.parquet", rows)
    write_tar(folder / "raw/here/images-000000.tar", ((key, "png", data) for key, data in images.items()))
    settings = {"clip": {"batch_size": 4}, "llm": {"layers": [1, 3], "max_tokens_per_batch": 40}, "vae": {"batch_size": 2, "flips": True}}
    YAML().dump({"cache": settings | {"queries": {"count": 20}}, "models": models, "loss": READS_ALL}, folder / "params.yaml")
    return folder


def _speckled(colour: str, size: tuple[int, int], seed: int) -> Image.Image:
    """An image with noise: for one of a single colour, a VAE's norms divide by almost 0 and amplify rounding."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.blend(Image.new("RGB", size, colour), Image.fromarray(noise), 0.5)
