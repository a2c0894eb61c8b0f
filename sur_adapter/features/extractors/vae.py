"""Latents of the images, by the VAE of the diffusion model.

`{split}-000000.parquet` holds id, latents (2, 4, h, w) fp16, mean and log-variance, and frame (6,) int32, SDXL's time ids: height and width
of the original, top and left of the crop after scaling, height and width of the crop, in pixels. With flips, latents_flipped is of the
mirrored image. With aspect buckets, each row has the shape of its bucket.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from math import log
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.features.latents import check_sizes, encode_images, images_to_tensor, load_vae, resize_and_crop
from sur_adapter.features.writer import extract_shards, weights_hash
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.images import FORMATS
from sur_adapter.io.prefetch import prefetch
from sur_adapter.io.schema import image_ids
from sur_adapter.io.shards import batched
from sur_adapter.models.config import ModelsConfig

NEEDS_IMAGES = True


@dataclass(frozen=True)
class Config:
    """Section `cache.vae` of params.yaml.

    batch_size: images. flips: the latents of the mirrored image too; off by default, because prompts tell left from right.
    buckets: (width, height) in pixels; each image goes to the one nearest in aspect ratio. Default: one square of models.resolution.
    precision: of the VAE; the latents are stored in fp16.
    """

    batch_size: int = 8
    flips: bool = False
    buckets: tuple[tuple[int, int], ...] | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: give at least 1")


def extract(pairs: pd.DataFrame, images: ImageIndex, out: Path, config: Config, models: ModelsConfig, executor: ExecutorConfig) -> None:
    """Writes the latents of all pairs; see base.py."""
    sizes = config.buckets or ((models.resolution, models.resolution),)

    def input_files(ids: list[str]) -> list:
        return [*model_files(models.diffusion), *images.files(ids)]

    make_extractor = partial(LatentExtractor, images, models.diffusion, sizes, config)
    extract_shards(out, pairs, make_extractor, input_files, config, __file__, executor)


def model_files(model: str) -> list[str]:
    """Lists the part of a model's folder that the VAE is loaded from."""
    return [f"{model}/vae"]


class LatentExtractor:
    """Encodes the image of each pair, once for all pairs of an image. sizes: (width, height) of the buckets."""

    def __init__(self, images: Mapping[str, bytes], model: str, sizes: tuple[tuple[int, int], ...], config: Config):
        self.vae = load_vae(model, config.precision)
        check_sizes(sizes, self.vae)
        self.images, self.sizes, self.batch_size, self.flips = images, sizes, config.batch_size, config.flips
        self.about = {"base_model": model, "vae_weights": weights_hash(self.vae), "buckets": [list(size) for size in sizes]}
        self.about["precision"] = str(self.vae.dtype).removeprefix("torch.")

    def __call__(self, rows: pd.DataFrame) -> dict[str, np.ndarray | list[np.ndarray]]:
        images = image_ids(rows["id"])
        ids = images.unique().tolist()
        features: list[tuple] = [()] * len(ids)  # of each image: time ids, latents, and latents of the mirrored image
        for numbers, pixels, time_ids in prefetch(self._batches(ids)):
            inputs = [pixels, pixels.flip(-1)] if self.flips else [pixels]
            for number, *row in zip(numbers, time_ids, *(encode_images(self.vae, x) for x in inputs), strict=True):
                features[number] = tuple(row)
        features = [features[k] for k in pd.factorize(images)[0]]
        time_ids, *latents = zip(*features, strict=True)
        columns = dict(zip(("latents", "latents_flipped"), latents, strict=False))
        if len(self.sizes) == 1:
            columns = {name: np.stack(values) for name, values in columns.items()}
        return {"frame": np.array(time_ids, np.int32), **columns}

    def _batches(self, ids: list[str]) -> Iterator[tuple[list[int], Tensor, list[list[int]]]]:
        """Yields numbers of ids, their images (B, 3, H, W) and time ids; a batch is of one bucket, images in their order."""
        buckets: dict[int, list[int]] = {}
        for number, key in enumerate(ids):
            buckets.setdefault(self._bucket(key), []).append(number)
        for bucket in sorted(buckets):
            for numbers in batched(buckets[bucket], self.batch_size):
                images, time_ids = zip(*(resize_and_crop(self.images[ids[n]], self.sizes[bucket]) for n in numbers), strict=True)
                yield numbers, images_to_tensor(list(images)), list(time_ids)

    def _bucket(self, key: str) -> int:
        if len(self.sizes) == 1:
            return 0
        return nearest_bucket(*Image.open(BytesIO(self.images[key]), formats=FORMATS).size, self.sizes)


def nearest_bucket(width: int, height: int, buckets: tuple[tuple[int, int], ...]) -> int:
    """Returns the index of the bucket nearest in log aspect ratio; the first of equals."""
    return min(range(len(buckets)), key=lambda b: abs(log(width / height) - log(buckets[b][0] / buckets[b][1])))
