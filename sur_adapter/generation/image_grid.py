"""Pictures side by side with their words, as one picture that any page can show."""

from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, SIZE = 160, 14, 14  # pixels: a picture's side, the space around it, the letters
INK, SOFT, PAPER = "#1d1d22", "#63636d", "white"


def sheet(columns: list[tuple[str, list[Image.Image]]], labels: list[str]) -> Image.Image:
    """One column a prompt: its words on top, below them a picture for each label. All columns hold as many pictures."""
    words = [wrap(text, 22)[:4] for text, _ in columns]
    sides = [wrap(label, 14) for label in labels]
    font = ImageFont.load_default(SIZE)
    left, top = 110 + GAP, GAP + max(map(len, words)) * (SIZE + 4) + GAP
    page = Image.new("RGB", (left + len(columns) * (SIDE + GAP), top + len(labels) * (SIDE + GAP)), PAPER)
    pen = ImageDraw.Draw(page)
    for row, lines in enumerate(sides):
        pen.multiline_text((GAP, top + row * (SIDE + GAP) + SIDE // 2), "\n".join(lines), SOFT, font, anchor="lm")
    for column, (_, images) in enumerate(columns):
        x = left + column * (SIDE + GAP)
        pen.multiline_text((x, GAP), "\n".join(words[column]), INK, font)
        for row, image in enumerate(images):
            y = top + row * (SIDE + GAP)
            page.paste(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
            pen.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline="#e2dfd8")
    return page
