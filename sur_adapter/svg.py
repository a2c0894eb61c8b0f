"""Three small charts as inline SVG: intervals, curves, bars. Colours come from the page's style (`--baseline`, `--adapter`, …).

All text is escaped here; numbers are printed with few digits, so that the same figures give the same bytes.
"""

from html import escape
from math import isfinite


def _n(x: float) -> str:
    return f"{x:.1f}".rstrip("0").rstrip(".")


def _label(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{kind}"/>'


def _svg(width: float, height: float, title: str, body: list[str]) -> str:
    about = f'viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-label="{escape(title)}"'
    return f'<svg {about} style="max-width:{_n(width)}px"><title>{escape(title)}</title>{"".join(body)}</svg>'


def intervals(groups: dict[str, dict[str, tuple[float, float, float]]], title: str) -> str:
    """group -> arm -> (value, low, high), all within 0 … 1: a point with its interval, one line an arm."""
    left, width, step = 90, 420, 17
    body, y = [], 10
    for name, arms in groups.items():
        body.append(_label(left - 10, y + step * len(arms) / 2 + 2, name, "end", "strong"))
        for arm, (value, low, high) in arms.items():
            y += step
            x, a, b = (left + v * width for v in (value, low, high))
            body.append(f'<g class="arm-{escape(arm)}">{_line(a, y - 8, b, y - 8, "whisker")}')
            body.append(f'<circle cx="{_n(x)}" cy="{_n(y - 8)}" r="4.5"/></g>')
        y += 14
        body.append(_line(left, y - 8, left + width, y - 8, "grid"))
    for tick in (0, 0.25, 0.5, 0.75, 1):
        body.insert(0, _line(left + tick * width, 8, left + tick * width, y - 4, "grid"))
        body.append(_label(left + tick * width, y + 10, f"{tick:.0%}", "middle", "soft"))
    return _svg(left + width + 20, y + 18, title, body)


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
    left, width, step = 190, 300, 22
    most, body = max([*values.values(), 1]), []
    for i, (name, value) in enumerate(values.items()):
        y, kind = i * step + 4, "bar strong" if name in strong else "bar"
        body.append(_label(left - 8, y + 13, name if len(name) <= 30 else name[:29] + "…", "end"))
        long = max(value / most * width, 1 if value else 0)
        body.append(f'<rect x="{left}" y="{y}" width="{_n(long)}" height="16" rx="2" class="{kind}"/>')
        body.append(_label(left + value / most * width + 6, y + 13, f"{value:,.0f}", "start", "soft"))
    return _svg(left + width + 60, len(values) * step + 8, title, body)
