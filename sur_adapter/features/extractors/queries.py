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

from sur_adapter.data.prompts.cleaning import words
from sur_adapter.features import query_bank as bank
from sur_adapter.features.extractors.vae import encode, fit, load, pixels
from sur_adapter.features.query_bank import CrossAttention
from sur_adapter.io.shards import chunks
from sur_adapter.models.stable_diffusion import TextEncoders, part
from sur_adapter.models.torch_utils import device, dtype

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
    encoders, vae = TextEncoders(models["diffusion"], device()), load(models["diffusion"], "fp32").to(device())
    unet = part(models["diffusion"], UNet2DConditionModel, "unet", torch_dtype=dtype(precision)).to(device()).eval()
    scheduler = part(models["diffusion"], DDPMScheduler, "scheduler")
    generator = torch.Generator().manual_seed(seed)
    layers = cross_attentions(unet)
    asked: dict[str, list[Tensor]] = {name: [] for name in layers}
    each = -(-count // len(rows))  # queries kept of a picture
    hooks = [m.to_q.register_forward_hook(_keep(asked[name], each, generator)) for name, m in layers.items()]
    for some in tqdm(chunks(rows.to_dict("records"), batch), desc="cache queries", disable=None):
        images, frames = zip(*(fit(pictures[r["id"]], [models["resolution"]] * 2) for r in some), strict=True)
        z = torch.from_numpy(encode(vae, pixels(list(images))))[:, 0].float()  # (B, 4, h, w)
        z = (z - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
        t = torch.randint(scheduler.config.num_train_timesteps, (len(z),), generator=generator)
        noised = scheduler.add_noise(z, torch.randn(z.shape, generator=generator), t)
        states, pooled = encoders([words(r) for r in some])
        look(unet, noised, t, states, pooled, frames)
    for hook in hooks:
        hook.remove()
    bank.write({name: _frozen(m, torch.cat(asked[name])[:count]) for name, m in layers.items()}, out, models["diffusion"])


@torch.no_grad()
def look(unet: UNet2DConditionModel, noised: Tensor, t: Tensor, states: Tensor, pooled: Tensor | None, frames: list[list[int]]) -> Tensor:
    """The U-Net's prediction; SDXL's is told the pooled words and the frames besides."""
    here = {"device": unet.device, "dtype": unet.dtype}
    more = {} if pooled is None else {"text_embeds": pooled.to(**here), "time_ids": torch.tensor(frames).to(**here)}
    return unet(noised.to(**here), t.to(unet.device), states.to(**here), added_cond_kwargs=more or None).sample


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
