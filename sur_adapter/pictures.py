"""What a picture is: bytes that decode, within bounds, to one still PNG, JPEG or WebP; and how a raw folder's are read back."""

import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pandas as pd
from PIL import Image, UnidentifiedImageError

from sur_adapter.records import open_image, read_table, read_tar

FORMATS = ("PNG", "JPEG", "WEBP")  # the only decoders strangers' bytes get to see
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


def kept(raw: Path) -> Iterator[tuple[str, pd.DataFrame, Iterator[Image.Image]]]:
    """For each shard of a raw folder: its number as text, the rows crawl kept, and their pictures (RGB), one at a time.

    Raises ValueError where table and tar do not hold the same ids.
    """
    tables = sorted(raw.glob("prompts-*.parquet"))
    if not tables:
        read_table(raw)  # says what is missing
    members = read_tar(raw)
    for table in tables:
        rows = read_table(table)
        rows = rows[rows.dropped.isna()].reset_index(drop=True)
        yield table.stem.removeprefix("prompts-"), rows, _pictures(raw, members, list(rows.id))


def _pictures(raw: Path, members: Iterator, ids: list[str]) -> Iterator[Image.Image]:
    for key in ids:
        found, _, data = next(members, ("no more pictures", None, None))
        if found != key:
            raise ValueError(f"{raw}: a tar holds {found} where its table says {key}: remove the folder and run `dvc repro` again")
        yield open_image(data)
