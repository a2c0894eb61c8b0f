"""What a picture is: bytes that decode, within bounds, to one still PNG, JPEG or WebP; and how a raw folder's are read back."""

import warnings
from io import BytesIO

from PIL import Image, UnidentifiedImageError

EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}  # MPO: a phone's JPEG with a second view
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
MAX_PIXELS = 50_000_000


class InvalidImageError(ValueError):
    """Its text is the reason: "not an image" | "truncated" | "too many pixels" | "animated"."""


def decode(data: bytes) -> Image.Image:
    """The picture, its pixels loaded. Raises NotAPicture; whatever the header or the name says, what decodes decides."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise InvalidImageError("too many pixels")
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                raise InvalidImageError("animated")
            image.load()
        except InvalidImageError:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise InvalidImageError("too many pixels") from None
        except UnidentifiedImageError:
            raise InvalidImageError("truncated" if data.startswith(SIGNATURES) else "not an image") from None
        except Exception:  # Pillow's decoders raise anything on bytes from strangers: OSError, SyntaxError, struct.error, …
            raise InvalidImageError("truncated") from None
    return image


FORMATS = ("PNG", "JPEG", "WEBP")  # the only decoders strangers' bytes get to see


def open_image(data: bytes) -> Image.Image:
    """The picture in some bytes, RGB on white. Raises ValueError where they are none."""
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        if image.mode in ("RGBA", "LA", "P"):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow's decoders raise either on bytes that were spoilt
        raise ValueError(f"a picture cannot be decoded ({error}): `python -m stages verify` says which file is spoilt") from error
