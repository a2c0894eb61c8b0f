"""Good pictures of the miniature that are not drawn to the bit as the world draws them: each kind varies what a person does not mind."""

from collections.abc import Callable, Iterator
from io import BytesIO
from random import Random

import numpy as np
from PIL import Image

from miniature.scenes import SIZE, make

Variation = Callable[[Image.Image, Random], Image.Image]
MOVE = 0.5  # pixels at most, along each axis
NOISE = 4.0  # standard deviation, in 8-bit steps
JITTER = 10  # 8-bit steps at most, for each channel of the whole picture
LARGE = 4  # times as large: what it is enlarged to, to be reduced by another filter


def pictures(variation: Variation, number: int, first: int) -> Iterator[tuple[Image.Image, list[dict]]]:
    """Yields good pictures, and what was asked for. first: seed of the first scene."""
    for scene in map(make, range(first, first + number)):
        yield variation(scene.draw(), Random(scene.seed)), scene.include


def as_drawn(image: Image.Image, rng: Random) -> Image.Image:
    return image


def jpeg(quality: int) -> Variation:
    def variation(image: Image.Image, rng: Random) -> Image.Image:
        image.save(data := BytesIO(), "JPEG", quality=quality)
        return Image.open(data).convert("RGB")

    return variation


def antialiased(image: Image.Image, rng: Random) -> Image.Image:
    """Edges of another antialiasing: enlarged and reduced by two other filters."""
    return image.resize((LARGE * SIZE,) * 2, Image.Resampling.LANCZOS).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def noisy(image: Image.Image, rng: Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, NOISE, (*image.size, 3))
    return _image(np.asarray(image, np.float32) + noise)


def recolored(image: Image.Image, rng: Random) -> Image.Image:
    """Every channel a little lighter or darker, the background too."""
    return _image(np.asarray(image, np.float32) + [rng.uniform(-JITTER, JITTER) for _ in range(3)])


def moved(image: Image.Image, rng: Random) -> Image.Image:
    """Moved by less than a pixel."""
    across, down = (rng.uniform(-MOVE, MOVE) for _ in range(2))
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, across, 0, 1, down), Image.Resampling.BICUBIC, fillcolor="white")


def all_at_once(image: Image.Image, rng: Random) -> Image.Image:
    for variation in (moved, recolored, noisy, jpeg(90)):
        image = variation(image, rng)
    return image


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


VARIATIONS: dict[str, Variation] = {
    "as drawn": as_drawn,
    "JPEG, quality 90": jpeg(90),
    "JPEG, quality 75": jpeg(75),
    "another antialiasing": antialiased,
    f"noise of {NOISE:.0f} steps": noisy,
    f"each channel up to {JITTER} steps lighter or darker": recolored,
    "moved by less than a pixel": moved,
    "moved, recolored, noisy, JPEG of quality 90": all_at_once,
}
