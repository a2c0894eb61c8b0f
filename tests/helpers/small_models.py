"""Small models of the real classes, shards and digests for several tests."""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from transformers import BlipProcessor, CLIPProcessor

from miniature.pretrain import blip, clip
from miniature.pretrain.vocabulary import build_tokenizer
from miniature.pretrain.world import texts
from miniature.scenes import make
from sur_adapter.data.crawl import shard_writer
from sur_adapter.io.raw_shards import ImageReader, read_shard, shard_numbers
from sur_adapter.io.schema import ROWS_PER_SHARD

SOURCES = {"miniature": {"count": 150, "seed": 3}}  # of the fixture `raw`


def digest(folder: Path) -> dict[str, str]:
    return {f.relative_to(folder).as_posix(): sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def encode(image: Image.Image, kind="png", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_shards(out: Path, rows: Iterable[dict], rows_per_shard: int = ROWS_PER_SHARD) -> int:
    """Writes the shards that a crawl of these rows would write; returns the number of rows."""
    return max((end for _, end in shard_writer.write_shards(out, rows, rows_per_shard=rows_per_shard)), default=0)


def iter_shards(raw: Path) -> Iterator[tuple[str, pd.DataFrame, ImageReader]]:
    """Yields the number of each shard, the rows that the crawl kept, and the reader of their images."""
    for number in shard_numbers(raw):
        yield number, *read_shard(raw, number)


def models(folder: Path) -> Path:
    """A BLIP and a CLIP of the real classes, small and untrained, in folder/blip and folder/clip."""
    torch.manual_seed(0)
    small = {"width": 32, "text_layers": 1, "vision_layers": 1}
    scenes = [make(i) for i in range(100)]
    tokenizer = blip.train_tokenizer(texts(scenes, "simple", 0), 24)
    blip.build(small | {"length": 24}, tokenizer).save_pretrained(folder / "blip")
    BlipProcessor(blip.image_processor(), tokenizer).save_pretrained(folder / "blip")
    tokenizer = build_tokenizer(texts(scenes, "complex", 0) + texts(scenes, "simple", 0), 1500, 40)
    clip.build(small | {"length": 40}, tokenizer).save_pretrained(folder / "clip")
    CLIPProcessor(clip.image_processor(), tokenizer).save_pretrained(folder / "clip")
    return folder
