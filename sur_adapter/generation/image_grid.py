"""Arranges images beside each other with their prompts and labels, as one image."""

from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, FONT_SIZE = 160, 14, 14  # of image_grid, in pixels: side of an image, space around it, size of the letters
MIN_SIDE, WIDE_GAP, WIDE_FONT_SIZE, MAX_LINES = 256, 16, 16, 3  # of side_by_side; MAX_LINES of the prompt
INK, GREY, FRAME, PAPER = "#1d1d22", "#63636d", "#e2dfd8", "white"


def image_grid(columns: list[tuple[str, list[Image.Image]]], row_labels: list[str]) -> Image.Image:
    """Draws one column per prompt: its text on top, below it one image per row label."""
    prompts = [wrap(prompt, 22)[:4] for prompt, _ in columns]
    labels = [wrap(label, 14) for label in row_labels]
    font = ImageFont.load_default(FONT_SIZE)
    left, top = 110 + GAP, GAP + max(map(len, prompts)) * (FONT_SIZE + 4) + GAP
    page = Image.new("RGB", (left + len(columns) * (SIDE + GAP), top + len(labels) * (SIDE + GAP)), PAPER)
    pen = ImageDraw.Draw(page)
    for row, lines in enumerate(labels):
        pen.multiline_text((GAP, top + row * (SIDE + GAP) + SIDE // 2), "\n".join(lines), GREY, font, anchor="lm")
    for column, (_, images) in enumerate(columns):
        x = left + column * (SIDE + GAP)
        pen.multiline_text((x, GAP), "\n".join(prompts[column]), INK, font)
        for row, image in enumerate(images):
            _paste(page, image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), x, top + row * (SIDE + GAP), margin=0)
    return page


def side_by_side(images: dict[str, Image.Image], prompt: str) -> Image.Image:
    """Draws labelled images of one size beside each other, below the prompt. Small ones are enlarged by a whole factor."""
    first = next(iter(images.values()))
    factor = max(1, -(-MIN_SIDE // min(first.size)))
    w, h = first.width * factor, first.height * factor
    width = WIDE_GAP + len(images) * (w + WIDE_GAP)
    lines = wrap(prompt, max(8, int(1.9 * (width - 2 * WIDE_GAP) / WIDE_FONT_SIZE)), max_lines=MAX_LINES, placeholder=" …")
    top = WIDE_GAP + (len(lines) * (WIDE_FONT_SIZE + 6) + WIDE_GAP if lines else 0)
    page = Image.new("RGB", (width, top + h + WIDE_FONT_SIZE + 2 * WIDE_GAP), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(WIDE_FONT_SIZE)
    for row, line in enumerate(lines):
        pen.text((WIDE_GAP, WIDE_GAP + row * (WIDE_FONT_SIZE + 6)), line, INK, font)
    for column, (label, image) in enumerate(images.items()):
        x = WIDE_GAP + column * (w + WIDE_GAP)
        _paste(page, image.convert("RGB").resize((w, h), Image.Resampling.NEAREST), x, top, margin=1)
        pen.text((x, top + h + WIDE_GAP // 2), label, GREY, font)
    return page


def _paste(page: Image.Image, image: Image.Image, x: int, y: int, margin: int) -> None:
    """Pastes an image with a frame; the frame is `margin` pixels outside the image's border pixels."""
    page.paste(image, (x, y))
    right, bottom = x + image.width - 1, y + image.height - 1
    ImageDraw.Draw(page).rectangle((x - margin, y - margin, right + margin, bottom + margin), outline=FRAME)
