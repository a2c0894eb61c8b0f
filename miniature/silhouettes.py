"""What each thing looks like: outlines on the square [-1, 1]², y pointing down, filled with one colour.

A shape is one polygon. A person or a robot is a skeleton whose pose is a table of joints,
drawn as thick limbs, a trunk and a head.
"""

from math import cos, pi, sin

from PIL import Image, ImageDraw

SUPERSAMPLE = 8


def _ring(n: int, radius=lambda i: 1.0, turn: float = -pi / 2) -> list[tuple[float, float]]:
    return [(radius(i) * cos(turn + 2 * pi * i / n), radius(i) * sin(turn + 2 * pi * i / n)) for i in range(n)]


def _heart() -> list[tuple[float, float]]:
    points = []
    for i in range(72):
        t = 2 * pi * i / 72
        x = 16 * sin(t) ** 3
        y = 13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)
        points.append((x / 16, (-y - 2.5) / 15))
    return points


def _moon() -> list[tuple[float, float]]:
    outer = [(cos(t), sin(t)) for t in (pi / 3 + (4 * pi / 3) * i / 48 for i in range(49))]
    inner = [(0.62 + 0.874 * cos(t), 0.874 * sin(t)) for t in (-1.71 - 2.863 * i / 40 for i in range(41))]
    return [(x - 0.1, y) for x, y in outer + inner]


SHAPES = {
    "circle": _ring(72),
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0, -0.95), (1, 0.85), (-1, 0.85)],
    "star": _ring(10, lambda i: 1.05 if i % 2 == 0 else 0.45),
    "heart": _heart(),
    "cross": [(-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35),
              (0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35)],
    "moon": _moon(),
}  # fmt: skip

# head, neck, hip, then each limb as joint and end: left arm, right arm, left leg, right leg
POSES = {
    "standing": ((0, -0.74), (0, -0.45), (0, 0.15),
                 ((-0.24, -0.14), (-0.28, 0.14)), ((0.24, -0.14), (0.28, 0.14)),
                 ((-0.14, 0.55), (-0.16, 0.92)), ((0.14, 0.55), (0.16, 0.92))),
    "waving": ((0, -0.66), (0, -0.37), (0, 0.2),
               ((-0.24, -0.1), (-0.28, 0.18)), ((0.42, -0.36), (0.56, -0.88)),
               ((-0.14, 0.57), (-0.16, 0.92)), ((0.14, 0.57), (0.16, 0.92))),
    "jumping": ((0, -0.5), (0, -0.24), (0, 0.2),
                ((-0.42, -0.4), (-0.66, -0.84)), ((0.42, -0.4), (0.66, -0.84)),
                ((-0.46, 0.36), (-0.56, 0.78)), ((0.46, 0.36), (0.56, 0.78))),
    "running": ((0.2, -0.72), (0.14, -0.42), (-0.04, 0.12),
                ((-0.3, -0.3), (-0.52, -0.02)), ((0.46, -0.14), (0.74, -0.36)),
                ((-0.34, 0.5), (-0.84, 0.56)), ((0.4, 0.3), (0.34, 0.86))),
    "sitting": ((-0.3, -0.72), (-0.3, -0.42), (-0.3, 0.26),
                ((-0.1, -0.1), (0.2, -0.02)), ((-0.1, -0.1), (0.2, -0.02)),
                ((0.38, 0.26), (0.38, 0.88)), ((0.38, 0.26), (0.38, 0.88))),
    "lying": ((-0.74, 0.5), (-0.45, 0.56), (0.16, 0.56),
              ((-0.18, 0.28), (0.06, 0.2)), ((-0.18, 0.28), (0.06, 0.2)),
              ((0.5, 0.4), (0.92, 0.56)), ((0.56, 0.62), (0.92, 0.6))),
}  # fmt: skip


LIMBS = ("left arm", "right arm", "left leg", "right leg")


class _Pen:
    """Draws in the coordinates of one thing onto a supersampled canvas."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill):
        self.draw, self.x, self.y, self.radius, self.fill = draw, x, y, radius, fill

    def _at(self, point):
        return self.x + self.radius * point[0], self.y + self.radius * point[1]

    def polygon(self, points):
        self.draw.polygon([self._at(p) for p in points], fill=self.fill)

    def disc(self, centre, r):
        (x, y), r = self._at(centre), r * self.radius
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=self.fill)

    def line(self, points, width):
        for a, b in zip(points, points[1:], strict=False):
            self.draw.line([self._at(a), self._at(b)], fill=self.fill, width=max(1, round(width * self.radius)))
        for p in points:
            self.disc(p, width / 2)


def _box(pen: _Pen, a, b, half: float) -> None:
    """A rectangle of half-width `half` around the segment a–b, with square ends."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = (dx * dx + dy * dy) ** 0.5
    nx, ny = -dy / length * half, dx / length * half
    pen.polygon([(a[0] + nx, a[1] + ny), (b[0] + nx, b[1] + ny), (b[0] - nx, b[1] - ny), (a[0] - nx, a[1] - ny)])


def _actor(pen: _Pen, cls: str, pose: str, without: str | None = None) -> None:
    head, neck, hip, *joints = POSES[pose]
    robot = cls == "robot"
    width = 0.15 if robot else 0.17
    for name, (joint, end) in zip(LIMBS, joints, strict=True):
        if name != without:
            arm = name.endswith("arm")
            pen.line([neck if arm else hip, joint, end], width if arm else width * 1.15)
    if robot:
        _box(pen, neck, hip, 0.27)
        pen.polygon([(head[0] + dx, head[1] + dy) for dx, dy in ((-0.27, -0.22), (0.27, -0.22), (0.27, 0.2), (-0.27, 0.2))])
        pen.line([head, neck], 0.2)
    else:
        pen.line([neck, hip], 0.25)
        pen.disc(head, 0.21)
        pen.line([head, neck], 0.12)


def paint(
    draw: ImageDraw.ImageDraw, cls: str, pose: str | None, x: float, y: float, radius: float, fill, without: str | None = None
) -> None:
    """Fill one thing at (x, y) with the given radius, all in pixels of the canvas behind `draw`. without: one of LIMBS that is left out."""
    pen = _Pen(draw, x, y, radius, fill)
    if cls in SHAPES:
        pen.polygon(SHAPES[cls])
    else:
        _actor(pen, cls, pose, without)


def paint_polygon(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], x: float, y: float, radius: float, fill) -> None:
    """Fill any outline on [-1, 1]² as `paint` does: what the world has no name for."""
    _Pen(draw, x, y, radius, fill).polygon(points)


def regular(corners: int, turn: float) -> list[tuple[float, float]]:
    """The outline of a regular polygon, its first corner turned by `turn` from the top, in radians."""
    return _ring(corners, turn=turn - pi / 2)


def canvas(size: int, background) -> Image.Image:
    """An empty supersampled picture; `shrink` brings it back to `size`."""
    mode = "L" if isinstance(background, int) else "RGB"
    return Image.new(mode, (size * SUPERSAMPLE, size * SUPERSAMPLE), background)


def shrink(image: Image.Image) -> Image.Image:
    return image.resize((image.width // SUPERSAMPLE, image.height // SUPERSAMPLE), Image.Resampling.BOX)
