"""What the VAE makes of the picture: `{split}-000000.tar`, {id}.npy, mean and log-variance [2, 4, h, w], fp16."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from sur_adapter.compute import device
from sur_adapter.diffusion import part
from sur_adapter.records import chunks, open_image, shards, write_tar


def write(pairs: pd.DataFrame, pictures, out: Path, models: dict, *, batch: int = 8) -> None:
    vae = part(models["diffusion"], AutoencoderKL, "vae").to(device()).eval()
    for name, rows in tqdm(list(shards(pairs)), desc="cache vae", disable=None):
        ids = rows["id"].tolist()
        parts = [_encode(vae, [fit(pictures[i], models["resolution"]) for i in some]) for some in chunks(ids, batch)]
        write_tar(out / f"{name}.tar", zip(ids, ["npy"] * len(ids), map(_npy, torch.cat(parts)), strict=True))


def fit(data: bytes, resolution: int) -> Image.Image:
    """Scaled and cut in the middle to resolution × resolution."""
    return ImageOps.fit(open_image(data), (resolution, resolution), Image.Resampling.LANCZOS)


@torch.no_grad()
def _encode(vae: AutoencoderKL, images: list[Image.Image]) -> Tensor:
    x = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2) / 127.5 - 1  # (B, 3, H, W)
    posterior = vae.encode(x.to(vae.device)).latent_dist
    return torch.stack([posterior.mean, posterior.logvar], 1).half().cpu()  # (B, 2, 4, h, w)


def _npy(array: Tensor) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array.numpy())
    return buffer.getvalue()
