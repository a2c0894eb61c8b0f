"""Four small charts as inline SVG: intervals, accuracy by strength, lines over steps, bars.

Colors come from the page's style (`--baseline`, `--adapter`, …). All text is escaped here; numbers are printed with few digits, so that
equal data gives equal bytes.
"""

from math import isfinite

from markupsafe import Markup

from sur_adapter.reporting.html import sanitize

MAX_SCALE = 1.4  # of a chart beyond its own units, which fit a phone
MAX_NAME = 26  # characters of a row's name


def _number(x: float) -> str:
    return f"{x:.1f}".rstrip("0").rstrip(".")


def _text(x: float, y: float, text: str, anchor: str = "start", css_class: str = "") -> Markup:
    tag = Markup('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>')
    return tag.format(_number(x), _number(y), anchor, css_class, text)


def _line(x1: float, y1: float, x2: float, y2: float, css_class: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(*map(_number, (x1, y1, x2, y2)), css_class)


def _path(points: list[tuple[float, float]]) -> Markup:
    steps = " ".join(f"{'L' if i else 'M'}{_number(x)} {_number(y)}" for i, (x, y) in enumerate(points))
    return Markup('<path d="{}" class="curve"/>').format(steps)


def _svg(width: float, height: float, title: str, parts: list[Markup]) -> Markup:
    tag = Markup('<svg viewBox="0 0 {0} {1}" role="img" aria-label="{2}" style="max-width:{3}px"><title>{2}</title>{4}</svg>')
    return tag.format(_number(width), _number(height), title, _number(width * MAX_SCALE), Markup().join(parts))


def interval_chart(groups: dict[str, dict[str, tuple[float, float, float]]], title: str) -> Markup:
    """Draws a point with its interval for each arm of each group. groups: group -> arm -> (value, low, high), all within 0 to 1."""
    left, width, step = 136, 192, 17
    parts, y = [], 6
    for name, arms in groups.items():
        y += step
        parts.append(_text(0, y, sanitize(name, MAX_NAME), "start", "strong"))
        for arm, (value, low, high) in arms.items():
            y += step
            x, x_low, x_high = (left + v * width for v in (value, low, high))
            parts.append(_text(left - 10, y, arm.replace("_", " + "), "end", "soft"))
            group = Markup('<g class="arm-{}">{}<circle cx="{}" cy="{}" r="4.5"/></g>')
            parts.append(group.format(arm, _line(x_low, y - 4, x_high, y - 4, "whisker"), _number(x), _number(y - 4)))
        y += 8
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.insert(0, _line(left + tick * width, 26, left + tick * width, y, "grid"))
        parts.append(_text(left + tick * width, y + 14, f"{tick:.0%}", "middle", "soft"))
    return _svg(left + width + 20, y + 22, title, parts)


def strength_chart(points: list[tuple[float, float, float, float]], title: str, unit: str) -> Markup:
    """Draws a line with error bars. points: (x, value, low, high), values within 0 to 1."""
    width, height, left, top = 260, 150, 44, 26
    first, extent = points[0][0], points[-1][0] - points[0][0] or 1
    positions = [(left + (x - first) / extent * width, *(top + (1 - v) * height for v in values)) for x, *values in points]
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = top + (1 - tick) * height
        parts += [_line(left, y, left + width, y, "grid"), _text(left - 6, y + 4, f"{tick:.0%}", "end", "soft")]
    parts.append(_path([(x, y) for x, y, *_ in positions]))
    marks = [
        _line(x, low, x, high, "whisker") + Markup('<circle cx="{}" cy="{}" r="4"/>').format(_number(x), _number(y))
        for x, y, low, high in positions
    ]
    parts.append(Markup('<g class="arm-adapter">{}</g>').format(Markup().join(marks)))
    parts += [_text(x, top + height + 16, f"{point[0]:g}", "middle", "soft") for (x, *_), point in zip(positions, points, strict=True)]
    parts += [_text(left + width / 2, top + height + 32, unit, "middle", "soft"), _text(0, 12, "accuracy", "start", "soft")]
    ends = f"{title}: {points[0][1]:.0%} at {points[0][0]:g}, {points[-1][1]:.0%} at {points[-1][0]:g}"
    return _svg(left + width + 16, top + height + 38, ends, parts)


def line_chart(points: list[tuple[float, float]], title: str) -> Markup:
    """Draws one line over steps, scaled from its minimum to its maximum; empty if no point is finite. points: (step, value)."""
    points = [(x, y) for x, y in points if isfinite(x) and isfinite(y)]
    if not points:
        return Markup()
    width, height, left, top = 240, 110, 62, 22
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    x_extent, y_extent = max(xs) - min(xs) or 1, high - low or 1
    parts = [_text(left, 12, title, "start", "strong")]
    parts += [_line(left, y, left + width, y, "grid") for y in (top, top + height)]
    parts += [_text(left - 6, top + 4, f"{high:.3g}", "end", "soft"), _text(left - 6, top + height + 4, f"{low:.3g}", "end", "soft")]
    parts += [_text(left, top + height + 16, f"{min(xs):g}", "start", "soft")]
    parts += [_text(left + width, top + height + 16, f"{max(xs):g} steps", "end", "soft")]
    parts.append(_path([(left + (x - min(xs)) / x_extent * width, top + (high - y) / y_extent * height) for x, y in points]))
    return _svg(left + width + 8, top + height + 22, f"{title}, from {ys[0]:.3g} to {ys[-1]:.3g}", parts)


def bar_chart(values: dict[str, float], title: str, highlighted: tuple[str, ...] = ()) -> Markup:
    """Draws counts as horizontal bars. values: name -> count; highlighted: names of bars in another color."""
    left, width, step = 168, 130, 22
    largest, parts = max([*values.values(), 1]), []
    for i, (name, value) in enumerate(values.items()):
        y, css_class = i * step + 4, "bar strong" if name in highlighted else "bar"
        parts.append(_text(left - 8, y + 13, sanitize(name, MAX_NAME), "end"))
        length = max(value / largest * width, 1 if value else 0)
        rect = Markup('<rect x="{}" y="{}" width="{}" height="16" rx="2" class="{}"/>')
        parts.append(rect.format(left, y, _number(length), css_class))
        parts.append(_text(left + value / largest * width + 6, y + 13, f"{value:,.0f}", "start", "soft"))
    return _svg(left + width + 62, len(values) * step + 8, title, parts)
