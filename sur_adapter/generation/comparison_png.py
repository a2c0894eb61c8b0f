"""Pictures of one prompt side by side, and a PNG that says how it was drawn: what the command line writes."""

import json
from pathlib import Path
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from sur_adapter.io.atomic import atomic_write

LEAST, GAP, SIZE, LINES = 256, 16, 16, 3  # pixels: a picture's shorter side, the space around it, the letters; lines of the prompt
INK, SOFT, FRAME, PAPER = "#1d1d22", "#63636d", "#e2dfd8", "white"
CHUNK = "sur-adapter"  # of the PNG, in which the settings stand as JSON


def side_by_side(pictures: dict[str, Image.Image], prompt: str) -> Image.Image:
    """Pictures of one size with their labels, below the prompt; small ones are enlarged, each pixel to a square."""
    first = next(iter(pictures.values()))
    times = max(1, -(-LEAST // min(first.size)))
    w, h = first.width * times, first.height * times
    width = GAP + len(pictures) * (w + GAP)
    lines = wrap(prompt, max(8, int(1.9 * (width - 2 * GAP) / SIZE)), max_lines=LINES, placeholder=" …")
    top = GAP + (len(lines) * (SIZE + 6) + GAP if lines else 0)
    page = Image.new("RGB", (width, top + h + SIZE + 2 * GAP), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(SIZE)
    for row, line in enumerate(lines):
        pen.text((GAP, GAP + row * (SIZE + 6)), line, INK, font)
    for column, (label, picture) in enumerate(pictures.items()):
        x = GAP + column * (w + GAP)
        page.paste(picture.convert("RGB").resize((w, h), Image.Resampling.NEAREST), (x, top))
        pen.rectangle((x - 1, top - 1, x + w, top + h), outline=FRAME)
        pen.text((x, top + h + GAP // 2), label, SOFT, font)
    return page


def save(picture: Image.Image, file: Path, settings: dict) -> None:
    """A PNG that says how it was drawn, there whole or not at all."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(CHUNK, json.dumps(settings, ensure_ascii=False))
    with atomic_write(file) as part:
        picture.save(part, "png", pnginfo=info)


def free(file: Path) -> Path:
    """The name itself, or the first of name-1, name-2, … that nobody has."""
    names = (file.with_stem(f"{file.stem}-{k}" if k else file.stem) for k in range(10**6))
    return next(name for name in names if not name.exists())
