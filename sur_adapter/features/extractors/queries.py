"""The query bank: queries of the U-Net's cross-attention layers (features/query_bank.py).

Recorded from U-Net passes on noisy latents of training images under their complex prompts, at random timesteps. 4,000 queries per layer
and the layer's weights take 0.16 GB for SD 1.x (16 layers), 0.18 GB for SD 2.x (16) and 1.6 GB for SDXL (70), in fp16.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from tqdm import tqdm

from sur_adapter.data.prompts.cleaning import effective_prompt
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.features.latents import encode_images, images_to_tensor, load_vae, resize_and_crop
from sur_adapter.features.query_bank import CrossAttention, save_query_bank
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.shards import batched
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.stable_diffusion import TextEncoders, cross_attention_layers, load_component, predict_noise, scale_latents
from sur_adapter.models.torch_utils import compute_dtype, resolve_device

NEEDS_IMAGES = True
NUM_IMAGES = 96  # that the bank is recorded from


@dataclass(frozen=True)
class Config:
    """Section `cache.queries` of params.yaml. count: queries per layer; batch_size: images; precision: of the U-Net."""

    count: int
    seed: int = 0
    batch_size: int = 16
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self):
        for name in ("count", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")


@torch.no_grad()
def extract(pairs: pd.DataFrame, images: ImageIndex, out: Path, config: Config, models: ModelsConfig, executor: ExecutorConfig) -> None:
    """Records the query bank; see base.py. It takes a minute, so it runs in this process and starts over after a kill."""
    device = resolve_device()
    rows = pairs[pairs["split"] == "train"].head(NUM_IMAGES)
    encoders, vae = TextEncoders(models.diffusion, device), load_vae(models.diffusion, "fp32")
    unet = (
        load_component(models.diffusion, UNet2DConditionModel, "unet", torch_dtype=compute_dtype(device, config.precision))
        .to(device)
        .eval()
    )
    scheduler = load_component(models.diffusion, DDPMScheduler, "scheduler")
    generator = torch.Generator().manual_seed(config.seed)
    layers = cross_attention_layers(unet)
    queries: dict[str, list[Tensor]] = {name: [] for name in layers}
    per_image = -(-config.count // len(rows))
    hooks = [layer.to_q.register_forward_hook(_recorder(queries[name], per_image, generator)) for name, layer in layers.items()]
    for batch in tqdm(batched(rows.to_dict("records"), config.batch_size), desc="cache queries", disable=None):
        crops, time_ids = zip(*(resize_and_crop(images[row["id"]], (models.resolution, models.resolution)) for row in batch), strict=True)
        means = torch.from_numpy(encode_images(vae, images_to_tensor(list(crops))))[:, 0].float()
        latents = scale_latents(means, vae.config)  # (B, 4, h, w)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
        noisy_latents = scheduler.add_noise(latents, torch.randn(latents.shape, generator=generator), timesteps)
        embeds = encoders([effective_prompt(row) for row in batch])
        predict_noise(unet, noisy_latents.to(device), timesteps.to(device), *embeds, torch.tensor(time_ids))
    for hook in hooks:
        hook.remove()
    bank = {name: CrossAttention.of_layer(layer, torch.cat(queries[name])[: config.count]) for name, layer in layers.items()}
    save_query_bank(bank, out, models.diffusion)


def _recorder(queries: list[Tensor], per_image: int, generator: torch.Generator) -> Callable:
    """Returns a forward hook of `to_q` that stores random queries of each image, fp16 on the CPU."""

    def hook(_module: nn.Module, _inputs: tuple, q: Tensor) -> None:  # (B, h·w, heads·e)
        chosen = torch.stack([torch.randperm(q.shape[1], generator=generator)[:per_image] for _ in range(len(q))]).to(q.device)
        queries.append(q.gather(1, chosen[..., None].expand(-1, -1, q.shape[-1])).flatten(0, 1).half().cpu())

    return hook
