"""AutoencoderKL: 64×64 pixels to 4×8×8 latents. L = L1 + L2 + w_kl · KL, and a scaling factor that makes latents unit.

As Stable Diffusion's own, the decoder is then trained on alone: pictures get sharper, latents stay what they were.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from miniature.pretrain.loop import fit, save_half
from miniature.pretrain.world import World


def main(world_path: Path, checkpoint: Path, out: Path, *, vae: dict) -> None:
    world = World(world_path)
    torch.manual_seed(vae["seed"])
    model = build(vae["channels"]).to(memory_format=torch.channels_last)

    def loss(step):
        rows = np.sort(np.random.default_rng((vae["seed"], step)).choice(len(world.scenes), vae["batch"], replace=False))
        x = world.pixels(rows).contiguous(memory_format=torch.channels_last)  # (B, 3, 64, 64)
        posterior = model.encode(x).latent_dist
        error = model.decode(posterior.sample()).sample - x
        return error.abs().mean() + error.square().mean() + vae["w_kl"] * posterior.kl().mean()

    both = fit(model, loss, checkpoint, {k: v for k, v in vae.items() if k != "decoder"}, [world_path])
    for part in (model.encoder, model.quant_conv):
        part.requires_grad_(False)
    alone = fit(model, loss, checkpoint.with_stem(checkpoint.stem + "-decoder"), vae | vae["decoder"], [world_path])
    training = both | {key: both[key] + alone[key] for key in ("steps", "seconds")} | {"loss": alone["loss"]}
    model.register_to_config(scaling_factor=round(1 / _spread(model, world), 4))
    save_half(model, out, training)


def build(channels: list[int]) -> AutoencoderKL:
    n = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
    )


@torch.no_grad()
def _spread(model: AutoencoderKL, world: World) -> float:
    """Standard deviation of the latents of the first thousand pictures."""
    chunks = np.arange(1000).reshape(10, 100)
    return torch.cat([model.encode(world.pixels(rows)).latent_dist.mean for rows in chunks]).std().item()
