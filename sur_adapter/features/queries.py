"""Where the U-Net looks: for each cross-attention layer a bank of its queries, and its frozen to_k, to_v, to_out (bank.py).

Recorded from U-Net passes on noised latents of training pictures under their complex prompts, at random times.
"""

from pathlib import Path

import pandas as pd
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from sur_adapter import bank
from sur_adapter.compute import device
from sur_adapter.diffusion import encode, part
from sur_adapter.features.vae import _encode, fit
from sur_adapter.loss import CrossAttention
from sur_adapter.records import chunks
from sur_adapter.wording import words

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
    asked: dict[str, list[Tensor]] = {name: [] for name in layers}
    each = -(-count // len(rows))  # queries kept of a picture
    hooks = [m.to_q.register_forward_hook(_keep(asked[name], each, generator)) for name, m in layers.items()]
    for some in tqdm(chunks(rows.to_dict("records"), batch), desc="cache queries", disable=None):
        z = (
            _encode(vae, [fit(pictures[r["id"]], models["resolution"]) for r in some])[:, 0].float() * vae.config.scaling_factor
        )  # (B, 4, h, w)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(z),), generator=generator)
        noised = scheduler.add_noise(z, torch.randn(z.shape, generator=generator), t)
        prompts = encode(tokenizer, text_encoder, [words(r) for r in some])
        with torch.no_grad():
            unet(noised.to(unet.device), t.to(unet.device), prompts)
    for hook in hooks:
        hook.remove()
    bank.write({name: _frozen(m, torch.cat(asked[name])[:count]) for name, m in layers.items()}, out)


def cross_attentions(unet: UNet2DConditionModel) -> dict:
    """name -> module of every layer that looks at the words."""
    return {name: m for name, m in unet.named_modules() if name.endswith("attn2")}


def _keep(kept: list[Tensor], each: int, generator: torch.Generator):
    def hook(_module, _inputs, q: Tensor) -> None:  # (B, h·w, inner)
        chosen = torch.stack([torch.randperm(q.shape[1], generator=generator)[:each] for _ in range(len(q))]).to(q.device)
        kept.append(q.gather(1, chosen[..., None].expand(-1, -1, q.shape[-1])).flatten(0, 1).half().cpu())

    return hook


def _frozen(module, q: Tensor) -> CrossAttention:
    out = module.to_out[0]
    return CrossAttention(module.heads, q, module.to_k.weight, module.to_v.weight, out.weight, out.bias)
