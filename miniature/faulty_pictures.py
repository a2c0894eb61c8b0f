"""Pictures of the miniature that nearly show what was asked for: each kind has one fault, which a person would see."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from math import cos, pi, sin, sqrt
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from miniature.scenes import ACTORS, BACKGROUND, COLORS, SIZE, Scene, Thing, make
from miniature.silhouettes import LIMBS, POSES, SHAPES, SUPERSAMPLE, canvas, paint, paint_polygon, regular, shrink

FIRST = 6000  # seed of the first scene of those that the thresholds of miniature.judge were chosen on
EDGE = 2  # pixels between an added thing and whatever else there is
Fault = Callable[[Scene, Random], Image.Image | None]  # the picture of a scene with the fault; None: this scene cannot have it


def pictures(fault: Fault, number: int, first: int = FIRST) -> Iterator[tuple[Image.Image, list[dict]]]:
    """Yields pictures with the fault, and what was asked for. first: seed of the first scene."""
    scenes = (make(seed) for seed in count(first))
    drawn = ((fault(scene, Random(scene.seed)), scene.include) for scene in scenes)
    return islice((item for item in drawn if item[0] is not None), number)


def draw(things, add: Callable[[ImageDraw.ImageDraw], None] = lambda pen: None) -> Image.Image:
    image = canvas(SIZE, BACKGROUND)
    pen = ImageDraw.Draw(image)
    for thing in things:
        place(pen, thing)
    add(pen)
    return shrink(image)


def place(pen: ImageDraw.ImageDraw, t: Thing, painter=paint, what=None, fill=None, radius: float = 1.0, **options) -> None:
    """Paints a thing, or something else in its place: what, fill, radius as a share of its own."""
    x, y, r = (SUPERSAMPLE * v for v in (t.x, t.y, t.radius * radius))
    painter(pen, *((t.cls, t.pose) if what is None else what), x, y, r, fill or COLORS[t.color], **options)


def free_spot(scene: Scene, rng: Random, half: int) -> tuple[int, int] | None:
    """Returns the middle of a free square of 2 half + 1 pixels."""
    far, white = half + EDGE, np.asarray(scene.draw()).min(-1) == 255
    for _ in range(300):
        x, y = rng.randint(far, SIZE - 1 - far), rng.randint(far, SIZE - 1 - far)
        if white[y - far : y + far + 1, x - far : x + far + 1].all():
            return x, y
    return None


def dot(size: int) -> Fault:
    """A square of so many pixels."""

    def fault(scene: Scene, rng: Random) -> Image.Image | None:
        if (at := free_spot(scene, rng, size)) is None:
            return None
        image, (x, y) = scene.draw(), at
        ImageDraw.Draw(image).rectangle((x, y, x + size - 1, y + size - 1), fill=COLORS[rng.choice(list(COLORS))])
        return image

    return fault


def small_thing(radius: int, contrast: int = 255) -> Fault:
    """One more thing, of so many 8-bit steps from white at most."""

    def fault(scene: Scene, rng: Random) -> Image.Image | None:
        cls, color = rng.choice(list(SHAPES)), COLORS[rng.choice(list(COLORS))]
        if (at := free_spot(scene, rng, radius)) is None:
            return None
        scale = min(1.0, contrast / (255 - min(color)))
        thing = Thing(cls, "red", None, *at, radius)
        return draw(scene.things, lambda pen: place(pen, thing, fill=tuple(round(255 - (255 - v) * scale) for v in color)))

    return fault


def blot(share: float) -> Fault:
    """A disc of another colour on one of the things, of so large a share of its area."""

    def fault(scene: Scene, rng: Random) -> Image.Image | None:
        thing = rng.choice(scene.things)
        if thing.cls == "moon":
            return None  # its middle is beside it
        dx, dy = ((a + b) / 2 for a, b in zip(*POSES[thing.pose][1:3], strict=True)) if thing.pose else (0, 0)  # of the trunk
        area = (np.asarray(draw([thing])).min(-1) < 215).sum()
        color, radius = rng.choice([name for name in COLORS if name != thing.color]), sqrt(share * area / pi)
        spot = Thing("circle", color, None, thing.x + dx * thing.radius, thing.y + dy * thing.radius, radius)
        return draw(scene.things, lambda pen: place(pen, spot))

    return fault


def polygon(corners: int) -> Fault:
    """Regular polygons in place of circles."""

    def fault(scene: Scene, rng: Random) -> Image.Image | None:
        circles, turn = [t for t in scene.things if t.cls == "circle"], rng.uniform(0, 2 * pi)

        def add(pen: ImageDraw.ImageDraw) -> None:
            for thing in circles:
                place(pen, thing, paint_polygon, [regular(corners, turn)], radius=1.05)

        return draw([t for t in scene.things if t.cls != "circle"], add) if circles else None

    return fault


def turned(cls: str, angle: float) -> Fault:
    """Shapes of a class, turned by an angle in radians."""

    def fault(scene: Scene, rng: Random) -> Image.Image | None:
        chosen = [t for t in scene.things if t.cls == cls]
        outline = [(x * cos(angle) - y * sin(angle), x * sin(angle) + y * cos(angle)) for x, y in SHAPES[cls]]

        def add(pen: ImageDraw.ImageDraw) -> None:
            for thing in chosen:
                place(pen, thing, paint_polygon, [outline])

        return draw([t for t in scene.things if t.cls != cls], add) if chosen else None

    return fault


def without_limb(kind: str) -> Fault:
    """An actor without an arm, or without a leg, where it is not before the trunk or the other limb."""

    def fault(scene: Scene, rng: Random) -> Image.Image | None:
        actors = [t for t in scene.things if t.cls in ACTORS and t.pose not in ("sitting", "lying")]
        limb = rng.choice([name for name in LIMBS if name.endswith(kind)])
        return draw([], lambda pen: place(pen, actors[0], without=limb)) if actors else None

    return fault


def hollow(scene: Scene, rng: Random) -> Image.Image | None:
    """A shape with a hole."""
    shapes = [t for t in scene.things if t.cls in SHAPES and t.cls != "moon"]
    if not shapes:
        return None
    thing = rng.choice(shapes)
    hole = Thing("circle", "red", None, thing.x, thing.y, 0.3 * thing.radius)
    return draw(scene.things, lambda pen: place(pen, hole, fill=BACKGROUND))


REFUSED: dict[str, Fault] = {
    "a dot of one pixel": dot(1),
    "a dot of 2 × 2 pixels": dot(2),
    "one more small thing": small_thing(3),
    "one more pale thing": small_thing(6, 39),
    "a blot of 10 % on a thing": blot(0.10),
    "pentagons for circles": polygon(5),
    "hexagons for circles": polygon(6),
    "a missing arm": without_limb("arm"),
    "a missing leg": without_limb("leg"),
    "a hole": hollow,
    "a square on its corner": turned("square", pi / 4),
    "a heart upside down": turned("heart", pi),
    "a triangle upside down": turned("triangle", pi),
}
NOT_SEEN: dict[str, Fault] = {  # below the noise of decoded pictures, or too small for 64 × 64 pixels
    "one more thing, fainter than the noise": small_thing(6, 25),
    "octagons for circles": polygon(8),
}
