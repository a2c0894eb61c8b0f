"""Generation data hidden in a picture's pixels: the lowest bit of alpha, or of red, green and blue, column by column.

15 bytes of signature, 32 bits that tell the length in bits, then the text, plain or gzipped. AUTOMATIC1111 writes so by an
extension, NovelAI by default; it survives what strips text chunks.
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
HEAD = 19  # bytes of signature and length
MAX_TEXT = 2**22  # bytes; gzip from strangers may unpack to anything


def hidden(image: Image.Image) -> str | None:
    """The text in the pixels of a loaded picture; None where there is none, or where it is broken."""
    for channels in ("A", "RGB"):
        if not set(channels) <= set(image.getbands()):
            continue
        head = _bytes(image, channels, 0, HEAD)
        where, gzipped = SIGNATURES.get(head[:15], (None, False))
        if where != channels:
            continue
        size = int.from_bytes(head[15:], "big") // 8
        text = _bytes(image, channels, HEAD, size) if size <= MAX_TEXT else b""
        if len(text) == size:
            return _unzip(text) if gzipped else text.decode("utf-8", "replace")
    return None


def _bytes(image: Image.Image, channels: str, start: int, count: int) -> bytes:
    """`count` bytes from the lowest bits, from byte `start` on; fewer where the pixels end."""
    pixels = -(-(start + count) * 8 // len(channels))
    columns = min(image.width, -(-pixels // image.height))
    some = np.asarray(image.crop((0, 0, columns, image.height)))  # (h, w, C)
    some = some[..., [image.getbands().index(c) for c in channels]]
    return np.packbits(some.transpose(1, 0, 2).reshape(-1) & 1).tobytes()[start : start + count]


def _unzip(data: bytes) -> str | None:
    try:
        return zlib.decompressobj(wbits=31).decompress(data, MAX_TEXT).decode("utf-8", "replace")
    except zlib.error:
        return None
