"""One prompt on one noise, with and without the adapter, as a picture: what the command line draws."""

import json
from pathlib import Path
from textwrap import wrap

import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from sur_adapter import diffusion
from sur_adapter.compute import device
from sur_adapter.whole import whole

LEAST, GAP, SIZE, LINES = 256, 16, 16, 3  # pixels: a picture's shorter side, the space around it, the letters; lines of the prompt
INK, SOFT, FRAME, PAPER = "#1d1d22", "#63636d", "#e2dfd8", "white"
CHUNK = "sur-adapter"  # of the PNG, in which the settings stand as JSON


def pipeline(model: str, asked: str):
    """The pipeline of a diffusion model on the GPU, if there is one; steps are shown where a terminal looks on.

    asked: who named the model. FileNotFoundError where there is none.
    """
    try:
        pipe = diffusion.pipeline(model)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{asked} is {model!r}, where no diffusion model can be loaded: give --model, a folder that holds one or a name on the hub"
        ) from error
    pipe.set_progress_bar_config(disable=None, leave=False)  # None: off where no terminal is
    return pipe.to(device())


def draw(
    pipe, prompt: str, *, negative: str = "", seed: int = 0, steps: int = 20, guidance: float = 7.5, size: tuple[int, int] | None = None
) -> Image.Image:
    """One picture, on noise that the seed alone makes, on the CPU: the same with and without an adapter, and on every device.

    size: width and height, the model's own unless given. ValueError where the model cannot draw one of that size.
    """
    width, height = size or (None, None)
    if size and (width % pipe.vae_scale_factor or height % pipe.vae_scale_factor):
        raise ValueError(f"the size is {width}x{height}: give multiples of {pipe.vae_scale_factor}, as this model draws")
    return pipe(
        prompt,
        negative_prompt=negative or None,
        generator=torch.Generator().manual_seed(seed),
        num_inference_steps=steps,
        guidance_scale=guidance,
        width=width,
        height=height,
    ).images[0]


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
    with whole(file) as part:
        picture.save(part, "png", pnginfo=info)


def free(file: Path) -> Path:
    """The name itself, or the first of name-1, name-2, … that nobody has."""
    names = (file.with_stem(f"{file.stem}-{k}" if k else file.stem) for k in range(10**6))
    return next(name for name in names if not name.exists())
