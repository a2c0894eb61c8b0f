"""What a picture really shows: pixels back to an `include` list, without a model and without mercy.

Foreground is what differs from the background; each connected piece of it is one thing. A piece is named only
if its silhouette matches one outline well and clearly better than the next, its rim is sharp, its size is of
this world, its colour is near one of the world's, and that colour fills it. Whatever else lies in the picture
is read as "unknown", so a blurred, merged or doubtful picture never passes for a right one.

How strict that is, is in STRICTNESS. `default` was chosen on pictures of the base model for development prompts
and on pictures with a fault each (faulty_pictures.py); `loose` is how the judge was before.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import pi

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from miniature.scenes import ACTORS, BACKGROUND, COLORS, SIZE, tally
from miniature.silhouettes import LIMBS, POSES, SHAPES, SUPERSAMPLE, canvas, paint, paint_polygon, regular, shrink

UNKNOWN = "unknown"
ERRORS = ("none", "unclear thing", "wrong thing", "wrong number", "swapped colors", "leaked color", "wrong color", "wrong pose")
FOREGROUND = 40  # 8-bit steps away from the background
FAR = 3  # pixels from a piece: from there on, its rim is no longer seen
GRID = 32  # silhouettes are compared at GRID × GRID
EXTENT = {"shape": (9, 34), "actor": (30, 62)}  # pixels along the longer side
RADII = {"shape": [8, 11], "actor": [25]}  # pixels: the sizes that outlines are drawn at
SOFTNESS = 1.6  # most half-covered pixels for each pixel of the rim: about 0.5 when drawn, 1.0 decoded, 2.9 at a blur of 2
COLOR_DISTANCE = 70.0  # farthest a piece's median colour may lie from its name, in 8-bit RGB
THIN = 5  # pixels of the inside: with fewer, the strongest pixels are taken
ALIKE = 0.97  # overlap from which a decoy cannot be told from the thing
DECOYS = ((5, 6), 4)  # regular polygons with so many corners, each turned so many ways: no circles


@dataclass(frozen=True)
class Strictness:
    """Thresholds of `read`.

    faint: 8-bit steps from the background that are seen away from all pieces; decoded pictures have up to 26 there. speck: pixels below
    which a piece is overlooked. match: least overlap with the outline; drawn things have 0.90 and more, decoded ones 0.85. margin: least
    lead over the next outline. decoy: least lead over an outline of something else (a pentagon, an actor without a limb); None: not
    compared. color_share: least share of the inside that has the colour of the whole. hole: largest share of a shape that is hollow.
    """

    faint: int | None
    speck: int
    match: float
    margin: float
    decoy: float | None
    color_share: float
    hole: float


STRICTNESS = {
    "loose": Strictness(None, 5, 0.80, 0.03, None, 0.85, 1.0),
    "default": Strictness(32, 1, 0.80, 0.03, -0.01, 0.91, 0.01),
    "strict": Strictness(28, 1, 0.84, 0.05, 0.005, 0.94, 0.01),
}


def read(image: Image.Image, strictness: str = "default") -> list[dict]:
    """The `include` list of a picture: {"class", "count", "color", "pose"?}; strangers have class "unknown".

    Any size and mode is taken; it is read at 64×64. Raises nothing on strange pictures: it reads strangers. strictness: of STRICTNESS.
    """
    limits = STRICTNESS[strictness]
    if image.size != (SIZE, SIZE):
        image = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)  # (64, 64, 3)
    contrast = np.abs(pixels - np.asarray(BACKGROUND, np.float32)).max(-1)  # (64, 64), 0 … 255
    pieces, n = ndimage.label(contrast > FOREGROUND, structure=np.ones((3, 3)))
    around = (ndimage.binary_dilation(pieces == i + 1, iterations=FAR) & np.isin(pieces, (0, i + 1)) for i in range(n))
    found = [_name(pixels, contrast, pieces == i + 1, halo, limits) for i, halo in enumerate(around)]
    if limits.faint and (contrast[~ndimage.binary_dilation(pieces > 0, iterations=FAR)] > limits.faint).any():
        found.append((UNKNOWN, UNKNOWN, None))
    return tally(thing for thing in found if thing)


def shows(image: Image.Image, include: list[dict], strictness: str = "default") -> bool:
    """Whether the picture shows what is listed, all of it and nothing besides."""
    return agree(read(image, strictness), include)


def agree(reading: list[dict], include: list[dict]) -> bool:
    return sorted(map(_key, reading)) == sorted(map(_key, include))


def error(reading: list[dict], include: list[dict]) -> str:
    """The first of ERRORS that separates a reading from what was asked for; "none" if they agree.

    Colours are swapped if the same ones are seen on other things, and leaked if a thing has the colour that another should have.
    """
    if agree(reading, include):
        return "none"
    if any(entry["class"] == UNKNOWN for entry in reading):
        return "unclear thing"
    asked, seen = _colors(include), _colors(reading)  # class -> Counter of the colours of its things
    if asked.keys() != seen.keys():
        return "wrong thing"
    if any(asked[cls].total() != seen[cls].total() for cls in asked):
        return "wrong number"
    if asked == seen:
        return "wrong pose"
    if sum(asked.values(), Counter()) == sum(seen.values(), Counter()):
        return "swapped colors"
    leaked = any(color in asked[other] for cls in asked for color in seen[cls] - asked[cls] for other in asked if other != cls)
    return "leaked color" if leaked else "wrong color"


def _colors(entries: list[dict]) -> dict[str, Counter]:
    found: dict[str, Counter] = {}
    for entry in entries:
        found.setdefault(entry["class"], Counter())[entry["color"]] += entry["count"]
    return found


def _key(entry: dict) -> tuple:
    return entry["class"], entry["count"], entry["color"], entry.get("pose") or ""


def _name(pixels, contrast, piece, halo, limits: Strictness) -> tuple[str, str, str | None] | None:
    """(class, color, pose) of one piece; None for a speck."""
    if piece.sum() < limits.speck:
        return None
    color = _color(pixels, contrast, piece, limits)
    cls, pose = _outline(contrast, piece, halo, limits)
    if cls in SHAPES and ndimage.binary_fill_holes(piece).sum() > (1 + limits.hole) * piece.sum():
        cls = UNKNOWN
    return (cls, color, pose) if UNKNOWN not in (cls, color) else (UNKNOWN, UNKNOWN, None)


def _color(pixels, contrast, piece, limits: Strictness) -> str:
    inside = ndimage.binary_erosion(piece)
    if inside.sum() < THIN:  # thin limbs: take the strongest pixels instead of the inner ones
        inside = piece & (contrast >= np.quantile(contrast[piece], 0.6))
    names, table = list(COLORS), np.asarray(list(COLORS.values()), np.float32)
    distance = np.linalg.norm(pixels[inside][:, None] - table, axis=-1)  # (pixels, colours)
    nearest = int(np.linalg.norm(np.median(pixels[inside], axis=0) - table, axis=-1).argmin())
    near = np.median(distance[:, nearest]) <= COLOR_DISTANCE
    uniform = (distance.argmin(-1) == nearest).mean() >= limits.color_share
    return names[nearest] if near and uniform else UNKNOWN


def _outline(contrast, piece, halo, limits: Strictness) -> tuple[str, str | None]:
    alpha = np.clip(contrast / np.quantile(contrast[piece], 0.75), 0, 1)  # 1 where the piece's full colour is
    silhouette = _normal(Image.fromarray((np.where(piece, alpha, 0) * 255).astype(np.uint8)))
    names, outlines = _templates()
    overlap = _overlap(silhouette, outlines)
    best = int(overlap.argmax())
    second = max(o for name, o in zip(names, overlap, strict=True) if name != names[best])
    kind = "actor" if names[best][0] in ACTORS else "shape"
    least, most = EXTENT[kind]
    extent = max(np.ptp(axis) + 1 for axis in np.nonzero(piece))
    fits = overlap[best] >= limits.match and overlap[best] - second >= limits.margin
    if fits and limits.decoy is not None:
        fits = overlap[best] - _overlap(silhouette, _decoys(names[best])).max(initial=0.0) >= limits.decoy
    sharp = _softness(np.where(halo, alpha, 0)) <= SOFTNESS
    return names[best] if fits and sharp and least <= extent <= most else (UNKNOWN, None)


def _overlap(silhouette: np.ndarray, outlines: np.ndarray) -> np.ndarray:
    return np.minimum(silhouette, outlines).sum((1, 2)) / np.maximum(silhouette, outlines).sum((1, 2))


def _softness(alpha: np.ndarray) -> float:
    """How wide the rim of a piece is, in pixels half covered for each pixel of its outline."""
    solid = alpha > 0.5
    rim = solid & ~ndimage.binary_erosion(solid)
    return ((alpha > 0.25) & (alpha < 0.75)).sum() / max(1, rim.sum())


@cache
def _templates() -> tuple[list[tuple[str, str | None]], np.ndarray]:
    """The outlines of everything, drawn as the world draws them: shapes small and large, since small tips are blunt."""
    names = [(shape, None) for shape in SHAPES] * len(RADII["shape"]) + list(product(ACTORS, POSES))
    radii = [radius for radius in RADII["shape"] for _ in SHAPES] + RADII["actor"] * len(ACTORS) * len(POSES)
    outlines = [_drawn(paint, cls, pose, radius=radius) for (cls, pose), radius in zip(names, radii, strict=True)]
    return names, np.stack(outlines)  # (things, GRID, GRID)


@cache
def _decoys(name: tuple[str, str | None]) -> np.ndarray:
    """The outlines of what is not the thing of this name but like it, (N, GRID, GRID): an actor without a limb, polygons for a circle."""
    (cls, pose), (corners, turns) = name, DECOYS
    outlines = []
    if cls in ACTORS:
        outlines = [_drawn(paint, cls, pose, radius=radius, without=limb) for radius in RADII["actor"] for limb in LIMBS]
    elif cls == "circle":
        ways = product(corners, range(turns), RADII["shape"])
        outlines = [_drawn(paint_polygon, regular(n, 2 * pi * k / n / turns), radius=radius) for n, k, radius in ways]
    whole = [outline for other, outline in zip(*_templates(), strict=True) if other == name]
    outlines = [o for o in outlines if max(_overlap(o, np.stack(whole))) < ALIKE]  # an arm before the trunk is not seen
    return np.stack(outlines) if outlines else np.empty((0, GRID, GRID), np.float32)


def _drawn(painter, *what, radius: float, **options) -> np.ndarray:
    image = canvas(SIZE, 0)
    painter(ImageDraw.Draw(image), *what, *(image.width / 2,) * 2, radius * SUPERSAMPLE, 255, **options)
    return _normal(shrink(image))


def _normal(alpha: Image.Image) -> np.ndarray:
    """A silhouette centred on its mass and scaled by its spread, at GRID × GRID, 0 … 1.

    Mass and spread are steadier than the edges, which a sharp tip or a blur moves by a pixel.
    """
    weight = np.asarray(alpha, np.float32) / 255
    rows, columns = np.indices(weight.shape) + 0.5
    total = weight.sum()
    y, x = (rows * weight).sum() / total, (columns * weight).sum() / total
    spread = np.sqrt((((rows - y) ** 2 + (columns - x) ** 2) * weight).sum() / total)
    pad, half = SIZE, 2.2 * spread  # padded so that the frame never leaves the picture
    framed = Image.new("L", (alpha.width + 2 * pad, alpha.height + 2 * pad))
    framed.paste(alpha, (pad, pad))
    box = (pad + x - half, pad + y - half, pad + x + half, pad + y + half)
    return np.asarray(framed.resize((GRID, GRID), Image.Resampling.BILINEAR, box=box), np.float32) / 255
