"""Encodes images as the latent distribution of the VAE."""

from collections.abc import Iterable

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageOps
from torch import Tensor

from sur_adapter.features.writer import to_storage_dtype
from sur_adapter.io.images import open_image
from sur_adapter.models.stable_diffusion import load_component
from sur_adapter.models.torch_utils import compute_dtype, resolve_device

FIX_HINT = "set cache.vae.precision to fp32"


def load_vae(model: str, precision: str) -> AutoencoderKL:
    """Loads the VAE. One that overflows in fp16, as SDXL's (`force_upcast` in its config), runs in fp32 if fp16 is chosen."""
    if precision == "fp16" and AutoencoderKL.load_config(model, subfolder="vae").get("force_upcast", True):
        precision = "fp32"
    device = resolve_device()
    return load_component(model, AutoencoderKL, "vae", torch_dtype=compute_dtype(device, precision)).eval().to(device)


def check_sizes(sizes: Iterable[tuple[int, int]], vae: AutoencoderKL) -> None:
    """Raises ValueError unless each (width, height) is a multiple of the pixels per latent."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    for size in sizes:
        if any(side < factor or side % factor for side in size):
            raise ValueError(
                f"params.yaml: cache.vae.buckets or models.resolution has {list(size)}: name [width, height] in pixels, "
                f"multiples of {factor}"
            )


def resize_and_crop(data: bytes, size: tuple[int, int]) -> tuple[Image.Image, list[int]]:
    """Scales an image to cover (width, height) and crops its centre.

    Returns it with SDXL's time ids: original height and width, top and left of the crop after scaling, target height and width.
    """
    image = open_image(data)
    width, height = size
    scale = max(width / image.width, height / image.height)
    top, left = (round((side * scale - target) / 2) for side, target in ((image.height, height), (image.width, width)))
    time_ids = [image.height, image.width, top, left, height, width]
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS), time_ids


def images_to_tensor(images: list[Image.Image]) -> Tensor:
    """Converts RGB images of one size to (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Tensor) -> np.ndarray:
    """Encodes images (B, 3, H, W): mean and log-variance of the latents, (B, 2, 4, h, w) fp16."""
    posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
    return to_storage_dtype(torch.stack([posterior.mean, posterior.logvar], 1), "fp16", FIX_HINT)
