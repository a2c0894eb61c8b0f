"""UNet2DConditionModel, brought up on keyword prompts alone behind CLIP's frozen text tower.

    L = ‖ε − UNet(z_t, t, E(p_c))‖²,   z_0 ~ VAE(x),   the prompt dropped in a tenth of the pictures

What is saved around it makes a StableDiffusionPipeline: text encoder, tokenizer, scheduler. It starts from random weights, or from those of
the U-Net in the folder `start`; a second cycle follows if the settings have `again`.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from miniature.pretrain.clip import encode
from miniature.pretrain.loop import autocast, fit, save_half
from miniature.pretrain.world import World, texts


def main(
    world_path: Path, vae_path: Path, clip_path: Path, checkpoint: Path, out: Path, start: Path | None = None, *, diffusion: dict
) -> None:
    world = World(world_path)
    vae = AutoencoderKL.from_pretrained(vae_path).eval()
    text_encoder = CLIPTextModel.from_pretrained(clip_path).eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(clip_path)
    scheduler = noise_schedule()
    mean, std = latents(vae, world)
    torch.manual_seed(diffusion["seed"])
    if start:
        unet = UNet2DConditionModel.from_pretrained(start)
    else:
        unet = build(diffusion["channels"], diffusion["layers"], diffusion["heads"], text_encoder.config.hidden_size)

    def loss(step):
        rng = np.random.default_rng((diffusion["seed"], step))
        rows = rng.choice(len(world.scenes), diffusion["batch"], replace=False)
        prompts = texts([world.scenes[i] for i in rows], "complex", diffusion["seed"] + step)
        prompts = ["" if drop else p for p, drop in zip(prompts, rng.random(len(rows)) < diffusion["drop"], strict=True)]
        with torch.no_grad(), autocast():
            words = text_encoder(**encode(tokenizer, prompts)).last_hidden_state  # (B, L, d)
        z = (mean[rows] + std[rows] * torch.randn_like(std[rows])) * vae.config.scaling_factor  # (B, 4, 8, 8)
        noise = torch.randn_like(z)
        t = times(len(z), scheduler.config.num_train_timesteps, diffusion["late"])
        with autocast():
            prediction = unet(scheduler.add_noise(z, noise, t), t, words).sample
        return F.mse_loss(prediction.float(), noise)

    inputs = [world_path, vae_path, clip_path, *([start] if start else [])]
    training = fit(unet, loss, checkpoint, {k: v for k, v in diffusion.items() if k != "again"}, inputs)
    if "again" in diffusion:
        again = fit(unet, loss, checkpoint.with_stem(checkpoint.stem + "-again"), diffusion | diffusion["again"], inputs)
        training |= {key: training[key] + again[key] for key in ("steps", "seconds")} | {"loss": again["loss"]}
    pipe = StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False)
    pipe.save_config(out)
    save_half(unet, out / "unet", training)
    save_half(text_encoder, out / "text_encoder")
    tokenizer.save_pretrained(out / "tokenizer")
    scheduler.save_pretrained(out / "scheduler")


def times(n: int, last: int, late: float) -> Tensor:
    """n of 0 … last − 1, [n]: uniform, but a share `late` the later of two, for what and how many are decided in the noise."""
    two = torch.rand(2, n)
    return (torch.where(torch.rand(n) < late, two.amax(0), two[0]) * last).long()


def build(channels: list[int], layers: int, heads: int, width: int) -> UNet2DConditionModel:
    n = len(channels)
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",) * n,
        up_block_types=("CrossAttnUpBlock2D",) * n,
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        cross_attention_dim=width,
        attention_head_dim=heads,
        norm_num_groups=16,
    )


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion's."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )


@torch.no_grad()
def latents(vae: AutoencoderKL, world: World) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each picture's latent, [N, 4, 8, 8] each, before scaling."""
    mean, std = [], []
    for rows in tqdm(np.array_split(np.arange(len(world.scenes)), len(world.scenes) // 100), desc="latents", disable=None):
        posterior = vae.encode(world.pixels(rows)).latent_dist
        mean.append(posterior.mean)
        std.append(posterior.std)
    return torch.cat(mean), torch.cat(std)
