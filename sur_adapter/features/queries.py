"""Where the U-Net looks: for each cross-attention layer a bank of its queries, and its frozen to_k, to_v, to_out.

Recorded from U-Net passes on noised latents of training pictures under their complex prompts, at random times.
`queries.safetensors` holds `<layer>.q` [count, h·e], `.to_k`, `.to_v` [h·e, d], `.to_out` [c, h·e], `.bias` [c].
"""

import json
from pathlib import Path

import pandas as pd
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from sur_adapter.diffusion import device, encode, part
from sur_adapter.features.vae import _encode, fit
from sur_adapter.loss import CrossAttention
from sur_adapter.records import chunks

PICTURES = 96  # that the banks are recorded from


def write(pairs: pd.DataFrame, pictures, out: Path, models: dict, *, count: int, seed: int = 0, batch: int = 16) -> None:
    rows = pairs[pairs["split"] == "train"].head(PICTURES)
    vae, unet = (
        part(models["diffusion"], AutoencoderKL, "vae").to(device()).eval(),
        part(models["diffusion"], UNet2DConditionModel, "unet").to(device()).eval(),
    )
    tokenizer, text_encoder = (
        part(models["diffusion"], CLIPTokenizer, "tokenizer"),
        part(models["diffusion"], CLIPTextModel, "text_encoder").to(device()).eval(),
    )
    scheduler = part(models["diffusion"], DDPMScheduler, "scheduler")
    generator = torch.Generator().manual_seed(seed)
    layers = cross_attentions(unet)
    banks: dict[str, list[Tensor]] = {name: [] for name in layers}
    each = -(-count // len(rows))  # queries kept of a picture
    hooks = [m.to_q.register_forward_hook(_keep(banks[name], each, generator)) for name, m in layers.items()]
    for some in tqdm(chunks(rows.to_dict("records"), batch), desc="cache queries", disable=None):
        z = (
            _encode(vae, [fit(pictures[r["id"]], models["resolution"]) for r in some])[:, 0].float() * vae.config.scaling_factor
        )  # (B, 4, h, w)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(z),), generator=generator)
        noised = scheduler.add_noise(z, torch.randn(z.shape, generator=generator), t)
        words = encode(tokenizer, text_encoder, [r["complex_prompt"] for r in some])
        with torch.no_grad():
            unet(noised.to(unet.device), t.to(unet.device), words)
    for hook in hooks:
        hook.remove()
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.{key}": value for name, m in layers.items() for key, value in _frozen(m, banks[name], count).items()}
    heads = json.dumps({name: m.heads for name, m in sorted(layers.items())})  # one entry: safetensors writes several in any order
    save_file(tensors, out / "queries.safetensors", {"heads": heads})


def read(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[CrossAttention]:
    """The layers of a folder, ready to be asked; dtype is what they reckon in."""
    file = folder / "queries.safetensors"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: loss.prompt `attention` needs it; run `dvc repro` to record it")
    with safe_open(file, "pt") as opened:
        heads = json.loads(opened.metadata()["heads"])
    tensors = {k: v.to(device, dtype) for k, v in load_file(file).items()}
    return [
        CrossAttention(h, *(tensors[f"{name}.{k}"] for k in ("q", "to_k", "to_v", "to_out", "bias"))) for name, h in sorted(heads.items())
    ]


def cross_attentions(unet: UNet2DConditionModel) -> dict:
    """name -> module of every layer that looks at the words."""
    return {name: m for name, m in unet.named_modules() if name.endswith("attn2")}


def _keep(bank: list[Tensor], each: int, generator: torch.Generator):
    def hook(_module, _inputs, q: Tensor) -> None:  # (B, h·w, inner)
        chosen = torch.stack([torch.randperm(q.shape[1], generator=generator)[:each] for _ in range(len(q))]).to(q.device)
        bank.append(q.gather(1, chosen[..., None].expand(-1, -1, q.shape[-1])).flatten(0, 1).half().cpu())

    return hook


def _frozen(module, bank: list[Tensor], count: int) -> dict[str, Tensor]:
    out = module.to_out[0]
    frozen = {"to_k": module.to_k.weight, "to_v": module.to_v.weight, "to_out": out.weight, "bias": out.bias}
    return {"q": torch.cat(bank)[:count].contiguous()} | {k: v.detach().half().cpu().contiguous() for k, v in frozen.items()}
