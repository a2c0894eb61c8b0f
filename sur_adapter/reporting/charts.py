"""Four small charts as inline SVG: intervals, accuracy by adapter scale, lines over steps, bars.

Colors come from the page's style (`--baseline`, `--adapter`, …). All text is escaped here; numbers are printed with few digits, so that
equal data gives equal bytes.
"""

from math import isfinite

from markupsafe import Markup

from sur_adapter.reporting.html import number, sanitize

MAX_SCALE = 1.4  # of a chart beyond its own units, which fit a phone
MAX_NAME = 26  # characters of a row's name


def _number(x: float) -> str:
    return f"{x:.1f}".rstrip("0").rstrip(".")


def _text(x: float, y: float, text: str, anchor: str = "start", css_class: str = "") -> Markup:
    tag = Markup('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>')
    return tag.format(_number(x), _number(y), anchor, css_class, text)


def _y_label(y: float, text: str) -> Markup:
    """Writes the name of the y axis upwards, at the left edge, its middle at y."""
    return Markup('<text transform="translate(11 {}) rotate(-90)" text-anchor="middle" class="soft">{}</text>').format(_number(y), text)


def _line(x1: float, y1: float, x2: float, y2: float, css_class: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(*map(_number, (x1, y1, x2, y2)), css_class)


def _path(points: list[tuple[float, float]]) -> Markup:
    steps = " ".join(f"{'L' if i else 'M'}{_number(x)} {_number(y)}" for i, (x, y) in enumerate(points))
    return Markup('<path d="{}" class="curve"/>').format(steps)


def _svg(width: float, height: float, title: str, parts: list[Markup]) -> Markup:
    tag = Markup('<svg viewBox="0 0 {0} {1}" role="img" aria-label="{2}" style="max-width:{3}px"><title>{2}</title>{4}</svg>')
    return tag.format(_number(width), _number(height), title, _number(width * MAX_SCALE), Markup().join(parts))


def interval_charts(groups: dict[str, dict[str, tuple[float, float, float]]], title: str) -> list[Markup]:
    """Draws a chart for each group: a point with its interval for each arm. groups: group -> arm -> (value, low, high), within 0 to 1."""
    return [_interval_chart(name, arms, f"{title}, {sanitize(name)}") for name, arms in groups.items()]


def _interval_chart(name: str, arms: dict[str, tuple[float, float, float]], title: str) -> Markup:
    left, width, step, top = 126, 118, 17, 22
    bottom = top + len(arms) * step + 4
    parts = [_text(left, 12, sanitize(name, MAX_NAME), "start", "strong")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_line(left + tick * width, top, left + tick * width, bottom, "grid"))
        if tick in (0, 0.5, 1):
            parts.append(_text(left + tick * width, bottom + 14, f"{tick:.0%}", "middle", "soft"))
    for i, (arm, (value, low, high)) in enumerate(arms.items()):
        y = top + (i + 0.5) * step + 2
        x, x_low, x_high = (left + v * width for v in (value, low, high))
        parts.append(_text(left - 10, y + 4, arm.replace("_", " + "), "end", "soft"))
        group = Markup('<g class="arm-{}">{}<circle cx="{}" cy="{}" r="4.5"/></g>')
        parts.append(group.format(arm, _line(x_low, y, x_high, y, "whisker"), _number(x), _number(y)))
    parts.append(_text(left + width / 2, bottom + 29, "accuracy", "middle", "soft"))
    return _svg(left + width + 20, bottom + 34, title, parts)


def strength_chart(points: list[tuple[float, float, float, float]], title: str, unit: str) -> Markup:
    """Draws a line with error bars. points: (x, value, low, high), values within 0 to 1."""
    width, height, left, top = 320, 136, 60, 8
    first, extent = points[0][0], points[-1][0] - points[0][0] or 1
    positions = [(left + (x - first) / extent * width, *(top + (1 - v) * height for v in values)) for x, *values in points]
    parts = [_y_label(top + height / 2, "accuracy")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = top + (1 - tick) * height
        parts += [_line(left, y, left + width, y, "grid"), _text(left - 6, y + 4, f"{tick:.0%}", "end", "soft")]
    parts.append(_path([(x, y) for x, y, *_ in positions]))
    marks = [
        _line(x, low, x, high, "whisker") + Markup('<circle cx="{}" cy="{}" r="4"/>').format(_number(x), _number(y))
        for x, y, low, high in positions
    ]
    parts.append(Markup('<g class="arm-adapter">{}</g>').format(Markup().join(marks)))
    labels = [number(x, "g") for x, *_ in points]
    parts += [_text(x, top + height + 16, label, "middle", "soft") for (x, *_), label in zip(positions, labels, strict=True)]
    parts.append(_text(left + width / 2, top + height + 32, unit, "middle", "soft"))
    ends = f"{title}: {points[0][1]:.0%} at {labels[0]}, {points[-1][1]:.0%} at {labels[-1]}"
    return _svg(left + width + 16, top + height + 38, ends, parts)


def line_chart(points: list[tuple[float, float]], title: str, unit: str) -> Markup:
    """Draws one line over steps, scaled from its minimum to its maximum; empty if no point is finite.

    points: (step, value); unit: the name of the y axis.
    """
    points = [(x, y) for x, y in points if isfinite(x) and isfinite(y)]
    if not points:
        return Markup()
    width, height, left, top = 168, 100, 70, 22
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    x_extent, y_extent = max(xs) - min(xs) or 1, high - low or 1
    parts = [_text(left, 12, title, "start", "strong"), _y_label(top + height / 2, unit)]
    for y, value in {top: high, top + height / 2: (low + high) / 2, top + height: low}.items():
        parts += [_line(left, y, left + width, y, "grid"), _text(left - 6, y + 4, number(value, ".3g"), "end", "soft")]
    parts += [
        _text(left, top + height + 16, f"{min(xs):g}", "start", "soft"),
        _text(left + width / 2, top + height + 16, "step", "middle", "soft"),
    ]
    parts += [_text(left + width, top + height + 16, f"{max(xs):g}", "end", "soft")]
    parts.append(_path([(left + (x - min(xs)) / x_extent * width, top + (high - y) / y_extent * height) for x, y in points]))
    ends = f"{title}, from {number(ys[0], '.3g')} to {number(ys[-1], '.3g')}"
    return _svg(left + width + 8, top + height + 22, ends, parts)


def bar_chart(values: dict[str, float], title: str, highlighted: tuple[str, ...] = ()) -> Markup:
    """Draws counts as horizontal bars. values: name -> count; highlighted: names of bars in another color."""
    left, width, step = 150, 130, 20
    largest, parts = max([*values.values(), 1]), []
    for i, (name, value) in enumerate(values.items()):
        y, css_class = i * step + 2, "bar strong" if name in highlighted else "bar"
        parts.append(_text(left - 8, y + 12, sanitize(name, MAX_NAME), "end"))
        length = max(value / largest * width, 1 if value else 0)
        rect = Markup('<rect x="{}" y="{}" width="{}" height="15" rx="2" class="{}"/>')
        parts.append(rect.format(left, y, _number(length), css_class))
        parts.append(_text(left + value / largest * width + 6, y + 12, f"{value:,.0f}", "start", "soft"))
    return _svg(left + width + 62, len(values) * step + 4, title, parts)
