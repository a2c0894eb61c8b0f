"""Small images with embedded prompts."""

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


def with_user_comment(text: str, kind: str, order: str = "utf-16-be") -> bytes:
    """A JPEG or WebP with an EXIF user comment."""
    exif, buffer = Image.Exif(), BytesIO()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode(order)
    Image.new("RGB", (8, 8)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def with_hidden_text(
    text: str | bytes, mode: str = "RGBA", gzipped: bool = True, size=(48, 40), kind: str = "png", bits: int | None = None
) -> bytes:
    """An image with `text` in the lowest bits: of alpha in RGBA, of the colours in RGB.

    text: bytes are stored unchanged. bits: a wrong length to store.
    """
    if isinstance(text, str):
        text = gzip.compress(text.encode(), mtime=0) if gzipped else text.encode()
    signature = f"stealth_{'png' if mode == 'RGBA' else 'rgb'}{'comp' if gzipped else 'info'}".encode()
    hidden = np.unpackbits(np.frombuffer(signature + (8 * len(text) if bits is None else bits).to_bytes(4, "big") + text, np.uint8))
    pixels = np.random.default_rng(0).integers(0, 256, (size[0], size[1], len(mode)), np.uint8)  # (w, h, C): column by column
    channels = pixels[..., 3:] if mode == "RGBA" else pixels
    flat = channels.reshape(-1).copy()
    flat[: len(hidden)] = flat[: len(hidden)] & 254 | hidden[: len(flat)]
    channels[...] = flat.reshape(channels.shape)
    buffer = BytesIO()
    Image.fromarray(pixels.transpose(1, 0, 2)).save(buffer, kind, **({"lossless": True, "exact": True} if kind == "webp" else {}))
    return buffer.getvalue()
