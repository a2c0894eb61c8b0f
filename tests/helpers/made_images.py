"""Small pictures made on the spot, with words inside."""

import gzip
from io import BytesIO

import numpy as np
from PIL import Image, PngImagePlugin


def png(color="red", text: dict | None = None, size=(8, 8)) -> bytes:
    """A PNG with text chunks."""
    info, buffer = PngImagePlugin.PngInfo(), BytesIO()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    Image.new("RGB", size, color).save(buffer, "png", pnginfo=info)
    return buffer.getvalue()


def commented(words: str, kind: str, order: str = "utf-16-be") -> bytes:
    """A JPEG or WebP with a user comment."""
    exif, buffer = Image.Exif(), BytesIO()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + words.encode(order)
    Image.new("RGB", (8, 8)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def stealthy(
    words: str | bytes, mode: str = "RGBA", gzipped: bool = True, size=(48, 40), kind: str = "png", bits: int | None = None
) -> bytes:
    """A picture whose lowest bits say `words`: of alpha in RGBA, of the colours in RGB.

    words: as they are where they are bytes. bits: a length that is not the true one.
    """
    text = words if isinstance(words, bytes) else gzip.compress(words.encode(), mtime=0) if gzipped else words.encode()
    signature = f"stealth_{'png' if mode == 'RGBA' else 'rgb'}{'comp' if gzipped else 'info'}".encode()
    told = np.unpackbits(np.frombuffer(signature + (8 * len(text) if bits is None else bits).to_bytes(4, "big") + text, np.uint8))
    pixels = np.random.default_rng(0).integers(0, 256, (size[0], size[1], len(mode)), np.uint8)  # (w, h, C): column by column
    channels = pixels[..., 3:] if mode == "RGBA" else pixels
    flat = channels.reshape(-1).copy()
    flat[: len(told)] = flat[: len(told)] & 254 | told[: len(flat)]
    channels[...] = flat.reshape(channels.shape)
    buffer = BytesIO()
    Image.fromarray(pixels.transpose(1, 0, 2)).save(buffer, kind, **({"lossless": True, "exact": True} if kind == "webp" else {}))
    return buffer.getvalue()
