"""Decodes images safely: only PNG, JPEG and WebP, one still frame, a limited number of pixels."""

import warnings
from enum import StrEnum
from io import BytesIO

from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP")  # the only decoders that untrusted bytes reach
EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}  # MPO: a phone's JPEG with a second view
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
MAX_PIXELS = 50_000_000


class Reason(StrEnum):
    """Why bytes are no valid image; the values are stored in the column `dropped`."""

    NOT_AN_IMAGE = "not an image"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too many pixels"
    ANIMATED = "animated"


class InvalidImageError(ValueError):
    """Bytes that are not accepted as an image; its text is the value of `reason`."""

    def __init__(self, reason: Reason):
        super().__init__(reason)
        self.reason = reason


def decode(data: bytes) -> Image.Image:
    """Decodes an image and loads its pixels. Raises InvalidImageError. File names and content types are ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise InvalidImageError(Reason.TOO_MANY_PIXELS)
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                raise InvalidImageError(Reason.ANIMATED)
            image.load()
        except InvalidImageError:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise InvalidImageError(Reason.TOO_MANY_PIXELS) from None
        except UnidentifiedImageError:
            raise InvalidImageError(Reason.TRUNCATED if data.startswith(SIGNATURES) else Reason.NOT_AN_IMAGE) from None
        except Exception:  # on untrusted bytes Pillow's decoders raise anything: OSError, SyntaxError, struct.error, …
            raise InvalidImageError(Reason.TRUNCATED) from None
    return image


def open_image(data: bytes) -> Image.Image:
    """Decodes an image to RGB, transparency on white. Raises ValueError if the bytes are corrupt."""
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        if image.mode in ("RGBA", "LA", "P"):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow's decoders raise either on corrupt bytes
        raise ValueError(f"an image cannot be decoded ({error}): `python -m stages verify` names the corrupt file") from error
