"""What a picture is: bytes that decode, within bounds, to one still PNG, JPEG or WebP; and how a raw folder's are read back."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import pandas as pd
from PIL import Image, UnidentifiedImageError

from sur_adapter.records import FORMATS, genuine, open_image, read_table, read_tar

EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}  # MPO: a phone's JPEG with a second view
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
MAX_PIXELS = 50_000_000


class NotAPicture(ValueError):
    """Its text is the reason: "not an image" | "truncated" | "too many pixels" | "animated"."""


def decode(data: bytes) -> Image.Image:
    """The picture, its pixels loaded. Raises NotAPicture; whatever the header or the name says, what decodes decides."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise NotAPicture("too many pixels")
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                raise NotAPicture("animated")
            image.load()
        except NotAPicture:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise NotAPicture("too many pixels") from None
        except UnidentifiedImageError:
            raise NotAPicture("truncated" if data.startswith(SIGNATURES) else "not an image") from None
        except Exception:  # Pillow's decoders raise anything on bytes from strangers: OSError, SyntaxError, struct.error, …
            raise NotAPicture("truncated") from None
    return image


Look = Callable[[Sequence[bool] | None], Iterator[Image.Image]]


def kept(raw: Path) -> Iterator[tuple[str, pd.DataFrame, Look]]:
    """For each shard of a raw folder: its number as text, the rows crawl kept, and a look at their pictures (RGB), one at a time.

    A look takes which of the rows are wanted; None for all. Raises ValueError where table and tar do not hold the same ids, or a picture
    is not the one that was crawled.
    """
    for number in numbers(raw):
        yield number, *shard(raw, number)


def numbers(raw: Path) -> list[str]:
    """Of the shards of a raw folder."""
    tables = sorted(raw.glob("prompts-*.parquet"))
    if not tables:
        read_table(raw)  # says what is missing
    return [table.stem.removeprefix("prompts-") for table in tables]


def members(raw: Path, number: str) -> tuple[Path, Path]:
    """The table and the tar of one shard."""
    return raw / f"prompts-{number}.parquet", raw / f"images-{number}.tar"


def shard(raw: Path, number: str) -> tuple[pd.DataFrame, Look]:
    """The rows crawl kept of one shard, and a look at their pictures, as of `kept`."""
    table, tar = members(raw, number)
    rows = read_table(table)
    rows = rows[rows.dropped.isna()].reset_index(drop=True)
    return rows, partial(_pictures, tar, list(rows.id))


def _pictures(tar: Path, ids: list[str], wanted: Sequence[bool] | None = None) -> Iterator[Image.Image]:
    members = read_tar(tar)
    for key, want in zip(ids, [True] * len(ids) if wanted is None else wanted, strict=True):
        found, _, data = next(members, ("no more pictures", None, None))
        if found != key:
            raise ValueError(f"{tar} holds {found} where its table says {key}: remove its folder and run `dvc repro` again")
        if want:
            genuine(tar, key, data)
            yield open_image(data)
