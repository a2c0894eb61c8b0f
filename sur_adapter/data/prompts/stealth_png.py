"""Reads generation data hidden in pixels: in the lowest bit of alpha, or of red, green and blue, column by column.

15 bytes of signature, 32 bits with the length in bits, then the text, plain or gzipped. Written by an extension of AUTOMATIC1111 and by
NovelAI as the default; it survives tools that strip text chunks.
"""

import zlib

import numpy as np
from PIL import Image

SIGNATURES = {  # (channels, gzipped)
    b"stealth_pnginfo": ("A", False),
    b"stealth_pngcomp": ("A", True),
    b"stealth_rgbinfo": ("RGB", False),
    b"stealth_rgbcomp": ("RGB", True),
}
HEADER_BYTES = 19  # signature and length
MAX_TEXT = 2**22  # bytes; untrusted gzip may decompress to any size


def hidden_text(image: Image.Image) -> str | None:
    """Reads the text in the pixels of a loaded image; None if there is none, or if it is corrupt."""
    for channels in ("A", "RGB"):
        if not set(channels) <= set(image.getbands()):
            continue
        header = _bytes(image, channels, 0, HEADER_BYTES)
        expected, gzipped = SIGNATURES.get(header[:15], (None, False))
        if expected != channels:
            continue
        size = int.from_bytes(header[15:], "big") // 8
        text = _bytes(image, channels, HEADER_BYTES, size) if size <= MAX_TEXT else b""
        if len(text) == size:
            return _unzip(text) if gzipped else text.decode("utf-8", "replace")
    return None


def _bytes(image: Image.Image, channels: str, start: int, count: int) -> bytes:
    """Returns `count` bytes of the lowest bits, from byte `start` on; fewer if the image is too small."""
    num_pixels = -(-(start + count) * 8 // len(channels))
    columns = min(image.width, -(-num_pixels // image.height))
    pixels = np.asarray(image.crop((0, 0, columns, image.height)))  # (h, w, C)
    pixels = pixels[..., [image.getbands().index(c) for c in channels]]
    return np.packbits(pixels.transpose(1, 0, 2).reshape(-1) & 1).tobytes()[start : start + count]


def _unzip(data: bytes) -> str | None:
    try:
        return zlib.decompressobj(wbits=31).decompress(data, MAX_TEXT).decode("utf-8", "replace")
    except zlib.error:
        return None
