"""Four small charts as inline SVG: intervals, a value by its cause, curves, bars.

Colours come from the page's style (`--baseline`, `--adapter`, …). All text is escaped here; numbers are printed with few digits, so
that the same figures give the same bytes.
"""

from html import escape
from math import isfinite

from sur_adapter.reporting.html import tame

WIDER = 1.4  # how far a chart may grow beyond its own units, which are made for a phone


def _n(x: float) -> str:
    return f"{x:.1f}".rstrip("0").rstrip(".")


def _cut(name: str) -> str:
    return tame(name, 26)


def _label(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{kind}"/>'


def _svg(width: float, height: float, title: str, body: list[str]) -> str:
    about = f'viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-label="{escape(title)}"'
    return f'<svg {about} style="max-width:{_n(width * WIDER)}px"><title>{escape(title)}</title>{"".join(body)}</svg>'


def intervals(groups: dict[str, dict[str, tuple[float, float, float]]], title: str) -> str:
    """group -> arm -> (value, low, high), all within 0 … 1: a point with its interval, one line an arm."""
    left, width, step = 136, 192, 17
    body, y = [], 6
    for name, arms in groups.items():
        y += step
        body.append(_label(0, y, _cut(name), "start", "strong"))
        for arm, (value, low, high) in arms.items():
            y += step
            x, a, b = (left + v * width for v in (value, low, high))
            body.append(_label(left - 10, y, arm.replace("_", " + "), "end", "soft"))
            body.append(f'<g class="arm-{escape(arm)}">{_line(a, y - 4, b, y - 4, "whisker")}')
            body.append(f'<circle cx="{_n(x)}" cy="{_n(y - 4)}" r="4.5"/></g>')
        y += 8
    for tick in (0, 0.25, 0.5, 0.75, 1):
        body.insert(0, _line(left + tick * width, 26, left + tick * width, y, "grid"))
        body.append(_label(left + tick * width, y + 14, f"{tick:.0%}", "middle", "soft"))
    return _svg(left + width + 20, y + 22, title, body)


def dose(points: list[tuple[float, float, float, float]], title: str, unit: str) -> str:
    """(x, value, low, high) of each point, values within 0 … 1: a line with whiskers."""
    width, height, left, top = 260, 150, 44, 12
    first, wide = points[0][0], points[-1][0] - points[0][0] or 1
    at = [(left + (x - first) / wide * width, *(top + (1 - v) * height for v in values)) for x, *values in points]
    body = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = top + (1 - tick) * height
        body += [_line(left, y, left + width, y, "grid"), _label(left - 6, y + 4, f"{tick:.0%}", "end", "soft")]
    path = " ".join(f"{'L' if i else 'M'}{_n(x)} {_n(y)}" for i, (x, y, *_) in enumerate(at))
    body.append(f'<path d="{path}" class="curve"/><g class="arm-adapter">')
    body += [f'{_line(x, low, x, high, "whisker")}<circle cx="{_n(x)}" cy="{_n(y)}" r="4"/>' for x, y, low, high in at]
    body.append("</g>")
    body += [_label(x, top + height + 16, f"{p[0]:g}", "middle", "soft") for (x, *_), p in zip(at, points, strict=True)]
    body.append(_label(left + width / 2, top + height + 32, unit, "middle", "soft"))
    ends = f"{title}: {points[0][1]:.0%} at {points[0][0]:g}, {points[-1][1]:.0%} at {points[-1][0]:g}"
    return _svg(left + width + 16, top + height + 38, ends, body)


def curve(points: list[tuple[float, float]], title: str) -> str:
    """One line over steps, from its lowest to its highest value."""
    points = [(x, y) for x, y in points if isfinite(x) and isfinite(y)]
    if not points:
        return ""
    width, height, left, top = 240, 110, 62, 22
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    wide, tall = max(xs) - min(xs) or 1, high - low or 1
    at = [(left + (x - min(xs)) / wide * width, top + (high - y) / tall * height) for x, y in points]
    path = " ".join(f"{'L' if i else 'M'}{_n(x)} {_n(y)}" for i, (x, y) in enumerate(at))
    body = [_label(left, 12, title, "start", "strong")]
    body += [_line(left, y, left + width, y, "grid") for y in (top, top + height)]
    body += [_label(left - 6, top + 4, f"{high:.3g}", "end", "soft"), _label(left - 6, top + height + 4, f"{low:.3g}", "end", "soft")]
    body += [_label(left, top + height + 16, f"{min(xs):g}", "start", "soft")]
    body += [_label(left + width, top + height + 16, f"{max(xs):g} steps", "end", "soft"), f'<path d="{path}" class="curve"/>']
    return _svg(left + width + 8, top + height + 22, f"{title}, from {ys[0]:.3g} to {ys[-1]:.3g}", body)


def bars(values: dict[str, float], title: str, strong: tuple[str, ...] = ()) -> str:
    """Counts as horizontal bars; those in `strong` are set off."""
    left, width, step = 168, 130, 22
    most, body = max([*values.values(), 1]), []
    for i, (name, value) in enumerate(values.items()):
        y, kind = i * step + 4, "bar strong" if name in strong else "bar"
        body.append(_label(left - 8, y + 13, _cut(name), "end"))
        long = max(value / most * width, 1 if value else 0)
        body.append(f'<rect x="{left}" y="{y}" width="{_n(long)}" height="16" rx="2" class="{kind}"/>')
        body.append(_label(left + value / most * width + 6, y + 13, f"{value:,.0f}", "start", "soft"))
    return _svg(left + width + 62, len(values) * step + 8, title, body)
