"""Formats the figures of `python -m experiments.plain_text_share` as a page and a chart."""

from html import escape

from sur_adapter.generation.prompts import MAIN

ARMS = {  # arm: (head of its column, colour of its line)
    "baseline": ("plain sentence", "#777777"),
    "adapter": ("plain sentence + adapter", "#1f6fb4"),
    "complex": ("keyword prompt", "#2c8a4b"),
}
HEADS = ("plain sentences in CLIP's texts", *(head for head, _ in ARMS.values()), "gap", "gap closed", "keyword prompt + adapter − without")
PAGE = """# Plain sentences in CLIP's pretraining

Written by `python -m experiments.plain_text_share`; the same figures are in `plain_text_share.json`. The CLIP of the miniature has read
{default} plain sentences, a share that was set so that there is a gap ([log](../LOG.md)). This page has the gap between keyword prompts and
plain sentences, and the share of it that the adapter closes, for CLIPs that have read more of them or fewer.

For each share, with the same steps and seeds for all, also for the share of the default:

1. A CLIP is trained from scratch as in [miniature/params.yaml](../miniature/params.yaml), {clip}. {broad} of its texts are broad
   language, as in the default; keyword prompts take the rest.
2. The committed U-Net is trained further behind this CLIP, {unet}, on keyword prompts alone, with the committed VAE.
3. The adapter is trained with the default objective on features of these models, {adapter}.
4. Its arms are drawn and judged on `{prompts}`.

![Share of right images by share of plain sentences](plain_text_share.svg)

Shares of right images of each set of prompts. Gap: keyword prompts − plain sentences. n: prompts × images of each. 95 % intervals over
templates and prompts.

{tables}

What limits the comparison:

* Each share has one CLIP, one U-Net and one adapter. The intervals do not contain the chance of training.
* The committed U-Net was trained behind the CLIP of the default share. Behind another CLIP it has more to learn in the same steps. The
  column of keyword prompts shows how far it has come.
* Pairs, sentences and the LLM's answers are the same for all shares. The filter that selected the pairs read the committed CLIP.
"""
LEFT, TOP, WIDTH, HEIGHT, STEP = 56, 20, 330, 220, 20  # of the chart, in pixels; STEP: between the lines of the legend


def format_page(figures: dict) -> str:
    """Formats the figures as Markdown, a table for each set of prompts."""
    settings, shares = figures["settings"], figures["shares"]
    trained = {name: "{steps:,} steps, seed {seed}".format(**settings[name]) for name in ("clip", "unet", "adapter")}
    about = {name: _percent(settings[name]) for name in ("default", "broad")} | {"prompts": settings["prompts"]}
    tables = "\n\n".join(_table(name, shares) for name in shares[0]["sets"])
    return PAGE.format(**trained, **about, tables=tables)


def _table(name: str, shares: list[dict]) -> str:
    first = shares[0]["sets"][name]
    n = f"n = {first['prompts']} × {first['seeds']}" + (f", {first['templates']} templates" if "templates" in first else "")
    lines = [HEADS, ["---"] * len(HEADS)]
    for figures in shares:
        block = figures["sets"][name]
        accuracies = [_interval(block["accuracy"][arm]["overall"], "{:.3f}") for arm in ARMS]
        closed = _interval(block["gap_closed"], "{:.2f}") if "gap_closed" in block else "no gap"
        kept = _interval(block["on_complex"]) if "on_complex" in block else "not drawn"
        lines.append([_percent(figures["share"]), *accuracies, _interval(block["gap"]), closed, kept])
    return f"## {name} ({n})\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _interval(interval: dict[str, float], form: str = "{:+.3f}") -> str:
    value, low, high = (form.format(interval[key]).replace("-", "−") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def format_chart(figures: dict) -> str:
    """Draws the shares of right images of the main set as SVG: a line for each of ARMS, a place for each share of plain sentences."""
    shares = figures["shares"]
    places = [LEFT + (k + 0.5) * WIDTH / len(shares) for k in range(len(shares))]
    right, bottom = LEFT + WIDTH, TOP + HEIGHT
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{LEFT}" y1="{_y(tick)}" x2="{right}" y2="{_y(tick)}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 8, _y(tick) + 4, f"{tick:.0%}", "end"))
    parts += [_text(x, bottom + 18, _percent(of["share"]), "middle") for x, of in zip(places, shares, strict=True)]
    parts.append(_text(LEFT + WIDTH / 2, bottom + 38, HEADS[0], "middle"))
    for number, (arm, (label, colour)) in enumerate(ARMS.items()):
        intervals = [of["sets"][MAIN]["accuracy"][arm]["overall"] for of in shares]
        xs = [x + 5 * (number - 1) for x in places]  # so that intervals lie side by side
        points = " ".join(f"{x:.1f},{_y(of['value'])}" for x, of in zip(xs, intervals, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, of in zip(xs, intervals, strict=True):
            parts.append(f'<line x1="{x:.1f}" y1="{_y(of["low"])}" x2="{x:.1f}" y2="{_y(of["high"])}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{_y(of["value"])}" r="4" fill="{colour}"/>')
        y = TOP + 12 + number * STEP
        parts.append(f'<line x1="{right + 14}" y1="{y - 4}" x2="{right + 34}" y2="{y - 4}" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(right + 40, y, label, "start"))
    size = f'width="{right + 200}" height="{bottom + 50}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return (
        "\n".join([head, "<title>Share of right images</title>", '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"])
        + "\n"
    )


def _y(share: float) -> float:
    return round(TOP + (1 - share) * HEIGHT, 1)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333333">{escape(text)}</text>'
