"""What the VAE makes of the picture: `{split}-000000.parquet`, id, latents [2, 4, h, w] fp16 (mean and log-variance), frame [6] int32.

With flips, latents_flipped is of the mirrored picture. With aspect buckets each row has the shape of its bucket. `frame` tells how the
picture was cut, in pixels: height and width as it came, top and left of the cut once scaled, height and width of the cut (SDXL's time ids).
"""

from collections.abc import Iterator
from functools import partial
from io import BytesIO
from math import log
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageOps
from torch import Tensor

from sur_adapter.features.writer import fill, identity, numbers
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.images import FORMATS, open_image
from sur_adapter.io.prefetch import prefetch
from sur_adapter.io.shards import batched
from sur_adapter.models.stable_diffusion import load_component
from sur_adapter.models.torch_utils import DTYPES, resolve_device

CURE = "set cache.vae.precision to fp32"


def write(
    pairs: pd.DataFrame,
    pictures,
    out: Path,
    models: dict,
    executor: dict | None = None,
    *,
    batch: int = 8,
    flips: bool = False,
    buckets: list[list[int]] | None = None,
    precision: str = "fp32",
) -> None:
    """flips: the mirrored picture's latents too; off, since words tell left from right. buckets: [[width, height], …] in pixels; each
    picture goes to the nearest in aspect."""
    sizes = buckets or [[models["resolution"]] * 2]

    def reads(ids: list[str]) -> list:
        return [*files(models["diffusion"]), *(pictures.files(ids) if isinstance(pictures, ImageIndex) else ())]

    make = partial(Latents, pictures, models["diffusion"], sizes, precision, batch, flips)
    fill(out, pairs, make, reads, {"batch": batch, "flips": flips}, __file__, executor)


def files(model: str) -> list[str]:
    """What is read of a model's folder."""
    return [f"{model}/vae"]


class Latents:
    """The VAE of a model, asked for pictures."""

    def __init__(self, pictures, model: str, sizes: list[list[int]], precision: str, batch: int, flips: bool):
        self.vae = load(model, precision).to(resolve_device())
        self.pictures, self.sizes, self.batch, self.flips = pictures, checked(sizes, self.vae), batch, flips
        self.about = {"base_model": model, "vae_weights": identity(self.vae), "buckets": sizes, "precision": str(self.vae.dtype)[6:]}

    def __call__(self, rows: pd.DataFrame) -> dict:
        ids = rows["id"].tolist()
        each: list[tuple] = [None] * len(ids)
        for some, x, frames in prefetch(_batches(self.pictures, ids, self.sizes, self.batch)):
            both = [encode(self.vae, x), encode(self.vae, x.flip(-1))] if self.flips else [encode(self.vae, x)]
            for i, *row in zip(some, frames, *both, strict=True):
                each[i] = row
        frames, *latents = zip(*each, strict=True)
        names = ("latents", "latents_flipped")[: len(latents)]
        atomic_write = (lambda rows: list(rows)) if len(self.sizes) > 1 else np.stack
        return {"frame": np.array(frames, np.int32)} | {name: atomic_write(rows) for name, rows in zip(names, latents, strict=True)}


def load(model: str, precision: str) -> AutoencoderKL:
    """A VAE that overflows in fp16, as SDXL's does (`force_upcast` in its config), is run in fp32 where fp16 is asked for."""
    if precision not in DTYPES:
        raise ValueError(f"params.yaml: cache.vae.precision is {precision!r}: choose {', '.join(DTYPES)}")
    kind = "fp32" if precision == "fp16" and AutoencoderKL.load_config(model, subfolder="vae").get("force_upcast", True) else precision
    return load_component(model, AutoencoderKL, "vae", torch_dtype=DTYPES[kind]).eval()


def checked(buckets: list[list[int]], vae: AutoencoderKL) -> list[list[int]]:
    """[[width, height], …], each a multiple of what the VAE makes one latent of."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    for size in buckets:
        if not isinstance(size, list) or len(size) != 2 or any(not isinstance(n, int) or n < factor or n % factor for n in size):
            raise ValueError(
                f"params.yaml: cache.vae.buckets or models.resolution has {size}: name [width, height] in pixels, multiples of {factor}"
            )
    return buckets


def fit(data: bytes, size: list[int]) -> tuple[Image.Image, list[int]]:
    """The picture scaled and cut in the middle to [width, height]; its frame [6]."""
    image = open_image(data)
    width, height = size
    scale = max(width / image.width, height / image.height)
    top, left = (round((side * scale - cut) / 2) for side, cut in ((image.height, height), (image.width, width)))
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS), [image.height, image.width, top, left, height, width]


def did_you_mean(width: int, height: int, buckets: list[list[int]]) -> int:
    """The number of the bucket whose aspect is nearest; of equal ones the first."""
    return min(range(len(buckets)), key=lambda b: abs(log(width / height) - log(buckets[b][0] / buckets[b][1])))


def pixels(images: list[Image.Image]) -> Tensor:
    """[B, 3, H, W], -1 to 1."""
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def encode(vae: AutoencoderKL, x: Tensor) -> np.ndarray:
    """Mean and log-variance, [B, 2, 4, h, w] fp16."""
    posterior = vae.encode(x.to(vae.device, vae.dtype)).latent_dist
    return numbers(torch.stack([posterior.mean, posterior.logvar], 1), "fp16", CURE)


def _batches(pictures, ids: list[str], sizes: list[list[int]], batch: int) -> Iterator[tuple[list[int], Tensor, list[list[int]]]]:
    """(row numbers, their pixels, their frames): rows of one bucket at a time, in their order."""
    inside: dict[int, list[int]] = {}
    for i, key in enumerate(ids):
        bucket = did_you_mean(*Image.open(BytesIO(pictures[key]), formats=FORMATS).size, sizes) if len(sizes) > 1 else 0
        inside.setdefault(bucket, []).append(i)
    for bucket in sorted(inside):
        for some in batched(inside[bucket], batch):
            images, frames = zip(*(fit(pictures[ids[i]], sizes[bucket]) for i in some), strict=True)
            yield some, pixels(list(images)), list(frames)
