"""What there is to see: a scene is made by its seed, and knows what must be seen in it.

Three categories, as in the paper:
    counting   one to five of one thing, all of one colour
    color      two different things, each with a colour of its own
    action     who does what, in which colour
"""

from collections import Counter
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from miniature.silhouettes import POSES, SHAPES, SUPERSAMPLE, canvas, paint, shrink

SIZE = 64
BACKGROUND = (255, 255, 255)
COLORS = {
    "red": (220, 38, 38),
    "orange": (249, 140, 22),
    "yellow": (240, 214, 30),
    "green": (34, 160, 70),
    "blue": (37, 99, 225),
    "purple": (140, 50, 190),
    "pink": (250, 140, 195),
    "black": (25, 25, 30),
}
ACTORS = ("person", "robot")
CATEGORIES = ("action", "color", "counting")
HELD_OUT = {  # combinations that nothing for the adapter shows or says, only test prompts; each word occurs in other combinations
    "color_shape": {
        ("red", "moon"), ("orange", "cross"), ("yellow", "heart"), ("green", "square"), ("blue", "triangle"), ("purple", "circle"),
        ("pink", "star"),
    },
    "number_shape": {(2, "heart"), (3, "star"), (4, "circle"), (5, "moon")},
    "pose_actor": {("waving", "robot"), ("sitting", "person")},
}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One pictogram: its class, its colour, its pose if it is an actor, its place and radius in pixels."""

    cls: str
    color: str
    pose: str | None
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    seed: int
    category: str
    things: tuple[Thing, ...]

    @property
    def include(self) -> list[dict]:
        """What must be seen, and nothing besides: GenEval's form, in a fixed order."""
        return tally((t.cls, t.color, t.pose) for t in self.things)

    def draw(self) -> Image.Image:
        """The picture, 64×64 RGB, antialiased; the same bits each time."""
        image = canvas(SIZE, BACKGROUND)
        pen = ImageDraw.Draw(image)
        for t in self.things:
            paint(pen, t.cls, t.pose, *(SUPERSAMPLE * v for v in (t.x, t.y, t.radius)), fill=COLORS[t.color])
        return shrink(image)


def tally(seen) -> list[dict]:
    """(class, color, pose) of each thing -> the `include` list, sorted; `pose` only where there is one."""
    entries = []
    for (cls, color, pose), count in sorted(Counter(seen).items(), key=lambda item: tuple(map(str, item[0]))):
        entry = {"class": cls, "count": count, "color": color}
        entries.append(entry | {"pose": pose} if pose else entry)
    return entries


def held_out(include: list[dict]) -> set[str]:
    """The kinds of HELD_OUT of which a scene has a combination."""
    found = {
        "color_shape": {(e["color"], e["class"]) for e in include},
        "number_shape": {(e["count"], e["class"]) for e in include},
        "pose_actor": {(e.get("pose"), e["class"]) for e in include},
    }
    return {kind for kind, combinations in HELD_OUT.items() if combinations & found[kind]}


def make(seed: int, category: str | None = None, scattered: bool = False, known: bool = False) -> Scene:
    """The scene of a seed. Without a category the seed chooses one, each as likely as the others.

    Counted things lie as on dice; scattered, in any cells of the grid. known: without a combination of HELD_OUT.
    """
    rng = Random(seed)
    category = category or CATEGORIES[seed % len(CATEGORIES)]
    if category not in _MAKERS:
        raise ValueError(f"category {category!r} is unknown: name one of {', '.join(CATEGORIES)}")
    while True:
        scene = Scene(seed, category, tuple(_MAKERS[category](rng, scattered)))
        if not (known and held_out(scene.include)):
            return scene


def _jitter(rng: Random, centre: float, by: float) -> float:
    return centre + rng.uniform(-by, by)


DICE = {  # cells (column, row) of a 3×3 grid
    1: (((1, 1),),),
    2: (((0, 1), (2, 1)), ((1, 0), (1, 2)), ((0, 0), (2, 2))),
    3: (((0, 1), (1, 1), (2, 1)), ((1, 0), (0, 2), (2, 2)), ((0, 0), (1, 1), (2, 2))),
    4: (((0, 0), (2, 0), (0, 2), (2, 2)), ((1, 0), (0, 1), (2, 1), (1, 2))),
    5: (((0, 0), (2, 0), (1, 1), (0, 2), (2, 2)), ((1, 0), (0, 1), (1, 1), (2, 1), (1, 2))),
}


def _counting(rng: Random, scattered: bool):
    """Up to five things in the cells of a 3×3 grid."""
    cls, color, count = rng.choice(list(SHAPES)), rng.choice(list(COLORS)), rng.randint(1, 5)
    cells = rng.sample([(x, y) for y in range(3) for x in range(3)], count) if scattered else rng.choice(DICE[count])
    radius = rng.uniform(7.2, 8.6)
    for column, row in sorted(cells):
        yield Thing(cls, color, None, _jitter(rng, 11.5 + 20.5 * column, 1), _jitter(rng, 11.5 + 20.5 * row, 1), radius)


def _color(rng: Random, _):
    """Two things in two of the four quarters."""
    shapes, colors = rng.sample(list(SHAPES), 2), rng.sample(list(COLORS), 2)
    cells = rng.sample([(x, y) for y in range(2) for x in range(2)], 2)
    for cls, color, (column, row) in zip(shapes, colors, cells, strict=True):
        yield Thing(cls, color, None, _jitter(rng, 17.5 + 29 * column, 2), _jitter(rng, 17.5 + 29 * row, 2), rng.uniform(10.5, 12))


def _action(rng: Random, _):
    """One actor, large, near the middle."""
    radius = rng.uniform(23, 27)
    yield Thing(rng.choice(ACTORS), rng.choice(list(COLORS)), rng.choice(list(POSES)), _jitter(rng, 32, 4), _jitter(rng, 32, 3), radius)


_MAKERS = {"action": _action, "color": _color, "counting": _counting}
