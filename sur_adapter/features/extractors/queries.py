"""Where the U-Net looks: for each cross-attention layer a bank of its queries, and its frozen to_k, to_v, to_out (bank.py).

Recorded from U-Net passes on noised latents of training pictures under their complex prompts, at random times.
4,000 queries a layer and the weights take 0.16 GB of SD 1.x (16 layers), 0.18 GB of SD 2.x (16), 1.6 GB of SDXL (70), fp16.
"""

from pathlib import Path

import pandas as pd
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm

from sur_adapter.data.prompts.cleaning import effective_prompt
from sur_adapter.features import query_bank as bank
from sur_adapter.features.extractors.vae import encode, fit, load, pixels
from sur_adapter.features.query_bank import CrossAttention
from sur_adapter.io.shards import batched
from sur_adapter.models.stable_diffusion import TextEncoders, cross_attention_layers, load_component, predict_noise, scale_latents
from sur_adapter.models.torch_utils import resolve_device, torch_dtype

PICTURES = 96  # that the banks are recorded from


def write(
    pairs: pd.DataFrame,
    pictures,
    out: Path,
    models: dict,
    executor: dict | None = None,
    *,
    count: int,
    seed: int = 0,
    batch: int = 16,
    precision: str = "fp32",
) -> None:
    """precision: of the U-Net, fp32 or bf16. executor: none is asked, as a minute's work stays in this process."""
    rows = pairs[pairs["split"] == "train"].head(PICTURES)
    encoders, vae = TextEncoders(models["diffusion"], resolve_device()), load(models["diffusion"], "fp32").to(resolve_device())
    unet = load_component(models["diffusion"], UNet2DConditionModel, "unet", torch_dtype=torch_dtype(precision)).to(resolve_device()).eval()
    scheduler = load_component(models["diffusion"], DDPMScheduler, "scheduler")
    generator = torch.Generator().manual_seed(seed)
    layers = cross_attention_layers(unet)
    asked: dict[str, list[Tensor]] = {name: [] for name in layers}
    each = -(-count // len(rows))  # queries kept of a picture
    hooks = [m.to_q.register_forward_hook(_keep(asked[name], each, generator)) for name, m in layers.items()]
    for some in tqdm(batched(rows.to_dict("records"), batch), desc="cache queries", disable=None):
        images, frames = zip(*(fit(pictures[r["id"]], [models["resolution"]] * 2) for r in some), strict=True)
        z = torch.from_numpy(encode(vae, pixels(list(images))))[:, 0].float()  # (B, 4, h, w)
        z = scale_latents(z, vae.config)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(z),), generator=generator)
        noised = scheduler.add_noise(z, torch.randn(z.shape, generator=generator), t)
        states, pooled = encoders([effective_prompt(r) for r in some])
        with torch.no_grad():
            predict_noise(unet, noised.to(unet.device), t.to(unet.device), states, pooled, torch.tensor(frames))
    for hook in hooks:
        hook.remove()
    bank.write({name: _frozen(m, torch.cat(asked[name])[:count]) for name, m in layers.items()}, out, models["diffusion"])


def _keep(kept: list[Tensor], each: int, generator: torch.Generator):
    def hook(_module, _inputs, q: Tensor) -> None:  # (B, h·w, inner)
        chosen = torch.stack([torch.randperm(q.shape[1], generator=generator)[:each] for _ in range(len(q))]).to(q.device)
        kept.append(q.gather(1, chosen[..., None].expand(-1, -1, q.shape[-1])).flatten(0, 1).half().cpu())

    return hook


def _frozen(module, q: Tensor) -> CrossAttention:
    out = module.to_out[0]
    return CrossAttention(module.heads, q, module.to_k.weight, module.to_v.weight, out.weight, out.bias)
