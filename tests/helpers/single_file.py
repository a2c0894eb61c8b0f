"""Writes a Stable Diffusion 1 pipeline as one .safetensors file, with the names of the original code, as model sites distribute it."""

import re
from pathlib import Path

from safetensors.torch import save_file

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
RESNET |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write(pipe, file: Path) -> Path:
    """Writes UNet, VAE and text encoder of `pipe`; tokenizer and configs are in no such file."""
    layers = pipe.unet.config.layers_per_block + 1
    tensors = {f"model.diffusion_model.{_unet_name(name, layers)}": value for name, value in pipe.unet.state_dict().items()}
    blocks = len(pipe.vae.config.block_out_channels)
    for name, value in pipe.vae.state_dict().items():
        is_attention = "attentions" in name and value.ndim == 2  # a convolution of width 1 in the original code
        tensors[f"first_stage_model.{_vae_name(name, blocks)}"] = value[:, :, None, None] if is_attention else value
    for name, value in pipe.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)
    return file


def _unet_name(name: str, layers: int) -> str:
    """layers: of each block, with the one that changes the resolution (down) or more than a down block has (up)."""
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name):
        way, block, kind, place, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        number = layers * block + place + (1 if way == "down" else 0)
        if kind == "downsamplers":
            return f"input_blocks.{layers * (block + 1)}.0.{rest.replace('conv', 'op', 1)}"
        if kind == "upsamplers":
            return f"output_blocks.{layers * (block + 1) - 1}.2.{rest}"
        head = f"{'input' if way == 'down' else 'output'}_blocks.{number}.{0 if kind == 'resnets' else 1}"
        return f"{head}.{_replace_first(rest, RESNET) if kind == 'resnets' else rest}"
    for ours, original in UNET.items():
        if name.startswith(f"{ours}."):
            rest = name.removeprefix(f"{ours}.")
            return f"{original}.{_replace_first(rest, RESNET) if 'resnets' in ours else rest}"
    raise AssertionError(name)


def _vae_name(name: str, blocks: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        head, rest = name.split("mid_block.attentions.0.")
        return f"{head}mid.attn_1.{_replace_first(rest, VAE_ATTENTION)}"
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _replace_first(name: str, names: dict[str, str]) -> str:
    """Replaces the part of the name before `.weight` or `.bias`."""
    head, _, kind = name.rpartition(".")
    return f"{names[head]}.{kind}"
