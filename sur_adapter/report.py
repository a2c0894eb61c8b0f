"""The report: one HTML file that stands alone, without network, script or clock.

Prompts come from strangers: whatever they hold is shown as text (`said`), never as markup.
"""

import base64
from html import escape
from io import BytesIO
from random import Random
from unicodedata import category

import pandas as pd

import sur_adapter.svg as svg
from sur_adapter.metrics import ARMS
from sur_adapter.quality import MEASURES
from sur_adapter.records import open_image

SIDE = 256  # pixels: larger pictures are shown as thumbnails
LONGEST = 300  # characters shown of a text from elsewhere
TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")  # marks that change the direction of what follows
MEANT = {
    "baseline": "plain prompt, no adapter",
    "adapter": "plain prompt, with the adapter",
    "complex": "keyword prompt, no adapter: the ceiling",
    "expansion": "plain prompt plus stock keywords, no adapter: what people do today",
}
TOLD = {
    "CLIP score": "The CLIP score is with the plain prompt in every arm, by a CLIP of its own.",
    "diversity of seeds": "Diversity is how far the seeds of a prompt lie apart: 0 would be one picture.",
}
HEADINGS = {
    "random": ("Drawn by lot", "Chosen by a fixed seed, not by us."),
    "best": ("Where the adapter helps most", "Right with it, wrong without; then by CLIP score."),
    "worst": ("Where it fails", "The worst of each category: right without it and wrong with it; then by CLIP score."),
}


def said(text: str) -> str:
    """A text from elsewhere as HTML: escaped, cut, without control characters and marks that turn the direction."""
    kept = "".join(c for c in str(text) if c not in TURNING and category(c) not in ("Cc", "Cs"))
    return f"<bdi>{escape(kept if len(kept) <= LONGEST else kept[:LONGEST] + '…')}</bdi>"


def choose(table: pd.DataFrame, seed: int = 0, each: int = 2) -> dict[str, list[tuple[str, int]]]:
    """heading -> (prompt id, seed) of the rows to show, `each` a category."""
    wide = table.set_index(["category", "id", "seed", "arm"])[["shown", "clip_score"]].unstack("arm")
    gain = pd.DataFrame({"shown": 0.0, "clip_score": 0.0}, index=wide.index)
    for column in ("shown", "clip_score"):
        if table[column].notna().any():
            gain[column] = wide[column]["adapter"] - wide[column]["baseline"]
            gain[f"{column}_adapter"] = wide[column]["adapter"]
    order = [c for c in ("shown", "shown_adapter", "clip_score") if c in gain]
    rows = {heading: [] for heading in HEADINGS}
    for name in sorted(gain.index.unique("category")):
        part = gain.loc[name].sort_values([*order, "id", "seed"], kind="stable")
        keys = [(str(i), int(k)) for i, k in part.index]
        rows["worst"] += _one_a_prompt(keys)[:each]
        rows["best"] += _one_a_prompt(keys[::-1])[:each]
        keys.sort()
        Random(f"{seed} {name}").shuffle(keys)
        rows["random"] += _one_a_prompt(keys)[:each]
    return rows


def _one_a_prompt(keys: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The first of each prompt."""
    first: dict[str, int] = {}
    for name, k in keys:
        first.setdefault(name, k)
    return list(first.items())


def page(numbers: dict, notes: dict, table: pd.DataFrame, asked: dict, rows: dict, pictures: dict, *, funnel, history, config) -> str:
    """The HTML. rows: of `choose`; pictures: (arm, prompt id, seed) -> bytes; funnel, history, config: as their stages wrote them."""
    arms = [arm for arm in ARMS if arm in set(table.arm)]
    sections = [
        _headline(numbers, notes),
        _accuracy(numbers, arms),
        *(_rows(heading, rows, table, asked, arms, pictures) for heading in HEADINGS),
        _measures(numbers, arms),
        _training(history),
        _funnel(funnel),
        _config(config),
        _caveats(numbers, notes),
    ]
    return PAGE.replace("STYLE", STYLE).replace("SECTIONS", "\n".join(sections))


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _headline(numbers: dict, notes: dict) -> str:
    gap, counts = numbers.get("semantic", {}).get("gap_closed", {}), numbers["counts"]
    about = f"{counts['prompts']} prompts × {counts['seeds']} seeds, the same noise in every arm"
    if "value" in gap:
        figure = f'<p class="figure">{_percent(gap["value"])}</p>'
        between = f"95 % interval {_percent(gap['low'])} to {_percent(gap['high'])}"
        words = f"of the gap between plain and keyword prompts is closed ({between}; {about})."
    else:
        figure = ""
        why = notes.get("semantic.gap_closed") or notes.get("semantic", "")
        words = f"How much of the gap between plain and keyword prompts is closed was left out: {escape(why)} ({about})."
    return f'<header><p class="soft">SUR-adapter</p><h1>Plain prompts, made as good as keyword prompts</h1>{figure}<p>{words}</p></header>'


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _arm(arm: str) -> str:
    return f'<span class="dot arm-{arm}"></span>{arm}'


def _accuracy(numbers: dict, arms: list[str]) -> str:
    semantic = numbers.get("semantic")
    if not semantic:
        return ""
    names = [n for n in semantic if n not in ("difference", "gap_closed", "overall")] + ["overall"]
    rows = [[_arm(a)] + [_interval(**semantic[n][a]) for n in names] for a in arms]
    differences = [semantic["difference"] if n == "overall" else semantic["difference"][n] for n in names]
    rows.append(["adapter − baseline"] + [_difference(d) for d in differences])
    rows.append(["better / same / worse"] + [f"{d['win']} / {d['tie']} / {d['loss']}" for d in differences])
    gaps = [semantic["gap_closed"] if n == "overall" else semantic["gap_closed"].get(n, {}) for n in names]
    rows.append(["gap closed"] + [_interval(g["value"], g["low"], g["high"]) if "value" in g else "left out" for g in gaps])
    chart = svg.intervals({n: {a: tuple(semantic[n][a][k] for k in ("value", "low", "high")) for a in arms} for n in names}, "Accuracy")
    legend = "".join(f"<li>{_arm(a)}: {MEANT[a]}</li>" for a in arms)
    text = "How often a picture shows all that was asked for, and nothing besides. Intervals are 95 %, over prompts."
    head = f'<h2>What the pictures show</h2><p>{text}</p><ul class="legend">{legend}</ul>'
    return f"<section>{head}{chart}{_table(['', *map(escape, names)], rows)}</section>"


def _interval(value: float, low: float, high: float) -> str:
    return f"<b>{_percent(value)}</b> <small>{100 * low:.0f}–{100 * high:.0f}</small>"


def _difference(d: dict) -> str:
    p = d.get("p_holm", d["p"])
    chance = "p &lt; 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"<b>{100 * d['value']:+.0f}</b> <small>{100 * d['low']:+.0f} to {100 * d['high']:+.0f}; {chance}</small>"


def _measures(numbers: dict, arms: list[str]) -> str:
    found = {"CLIP score": numbers.get("clip_score"), "diversity of seeds": numbers.get("diversity")}
    found = {name: values for name, values in found.items() if values} | {m: numbers["quality"][m] for m in MEASURES}
    rows = [[_arm(arm)] + [f"{values[arm]:.{1 if values[arm] >= 1 else 3}f}" for values in found.values()] for arm in arms]
    lost = [m for m in MEASURES if numbers["quality"][m]["regressed"]]
    verdict = f"With the adapter, pictures lose {' and '.join(lost)}." if lost else "With the adapter, no measure of quality is lost."
    told = [text for name, text in TOLD.items() if name in found] + [verdict]
    return f"<section><h2>What the pictures are like</h2><p>{' '.join(told)}</p>{_table(['', *found], rows)}</section>"


def _rows(heading: str, rows: dict, table: pd.DataFrame, asked: dict, arms: list[str], pictures: dict) -> str:
    title, text = HEADINGS[heading]
    judged = table.set_index(["arm", "id", "seed"])
    body = "".join(_row(name, k, judged, asked[name], arms, pictures) for name, k in rows[heading])
    return f"<section><h2>{title}</h2><p>{text} Same seed, same noise in each row.</p>{body}</section>"


def _row(name: str, k: int, judged: pd.DataFrame, prompt: dict, arms: list[str], pictures: dict) -> str:
    figures, texts = [], []
    for arm in arms:
        row = judged.loc[(arm, name, k)]
        right = {1.0: "shows it", 0.0: "does not show it"}.get(row.shown, "")
        mark = f'<span class="{"good" if row.shown else "bad"}">{"✓" if row.shown else "✗"} {right}</span>' if right else ""
        alt = f"{arm}, seed {k}" + (f": {right}" if right else "")
        figures.append(f"<figure>{_picture(pictures[arm, name, k], alt)}<figcaption>{_arm(arm)}<br>{mark}</figcaption></figure>")
        texts.append(f"<dt>{arm}</dt><dd>{said(row.text)}</dd>")
    words = f"<details><summary>the words given</summary><dl>{''.join(texts)}</dl></details>"
    about = f'<small class="soft">{escape(prompt["category"])}, {escape(name)}, seed {k}</small>'
    return f'<article><h3>{said(prompt["prompt"])}</h3>{about}<div class="row">{"".join(figures)}</div>{words}</article>'


def _picture(data: bytes, alt: str) -> str:
    image = open_image(data)
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    image.save(buffer, "png" if max(image.size) < SIDE else "webp", quality=85)
    kind = "png" if max(image.size) < SIDE else "webp"
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return f'<img src="{source}" width="{image.width}" height="{image.height}" alt="{escape(alt)}">'


def _training(history) -> str:
    """Every number of the history, as a curve of its own."""
    rows = [row for row in history if isinstance(row, dict) and "step" in row]
    points: dict[str, list] = {}
    for row in rows:
        for key, value in row.items():
            if key != "step" and isinstance(value, (int, float)):
                points.setdefault(key, []).append((row["step"], value))
    curves = "".join(svg.curve(line, key.replace("_", " ")) for key, line in points.items())
    return f'<section><h2>How it was trained</h2><div class="charts">{curves or "No history was written."}</div></section>'


def _funnel(funnel: dict) -> str:
    """Rows in, dropped by reason, kept: one chart a source; and how the kept ones were split."""
    sources = funnel.get("by_source", {})
    groups = sources if len(sources) == 1 else {"all sources": funnel} | sources
    charts = "".join(f"<h3>{escape(name)}</h3>{_reasons(rows, name)}" for name, rows in groups.items())
    split = ", ".join(f"{n:,} {escape(name)}" for name, n in funnel.get("by_split", {}).items())
    return f"<section><h2>Where the data went</h2>{charts}{f'<p>Of those kept: {split}.</p>' if split else ''}</section>"


def _reasons(rows: dict, name: str) -> str:
    dropped = {f"dropped: {reason}".replace("_", " "): n for reason, n in rows.get("dropped", {}).items()}
    counts = {"crawled": rows.get("in", 0)} | dropped | {"kept": rows.get("kept", 0)}
    return svg.bars(counts, f"{name}: {counts['kept']} of {counts['crawled']} pairs were kept", ("kept",))


def _config(config) -> str:
    rows = [[escape(key), said(value)] for key, value in _leaves(config)]
    about = f"<details><summary>the adapter's config</summary>{_table(['', ''], rows)}</details>"
    return f"<section><h2>What it was made of</h2>{about}</section>"


def _leaves(tree, prefix: str = ""):
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from _leaves(tree[key], f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), tree


def _caveats(numbers: dict, notes: dict) -> str:
    found = [
        "The unit is the prompt: its seeds are averaged first, so many pictures of few prompts do not narrow an interval.",
        f"The prompts are one list of {numbers['counts']['prompts']}; other people's sentences may behave otherwise.",
        "The keyword prompt is a ceiling only for this base model; a picture can be wrong in every arm.",
        "Sharpness, contrast and colourfulness do not know what is good; they only say where arms differ.",
        "p-values of accuracy by category and of the CLIP score are corrected together (Holm); others are not.",
    ]
    differences = numbers.get("semantic", {}).get("difference")
    if differences and "smallest_detectable" in differences:
        least = 100 * differences["smallest_detectable"]
        found.append(f"With so many prompts, a difference in accuracy under {least:.0f} points would often go unseen.")
    found = [escape(f) for f in found] + [f"Left out: <b>{escape(key)}</b>, since {escape(why)}." for key, why in sorted(notes.items())]
    return f"<section><h2>How far to trust this</h2><ul>{''.join(f'<li>{f}</li>' for f in found)}</ul></section>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>SUR-adapter: what it does</title><style>STYLE</style></head>
<body><main>
SECTIONS
</main></body></html>
"""
STYLE = """
:root{color-scheme:light dark;--paper:#fdfcfa;--ink:#1d1d22;--soft:#63636d;--line:#e2dfd8;--card:#fff;--good:#1a7f4b;--bad:#c2333b;
--baseline:#7d7d88;--adapter:#2563d8;--complex:#1a8a5a;--expansion:#b9770e}
@media (prefers-color-scheme:dark){:root{--paper:#16161a;--ink:#ececf0;--soft:#a0a0ac;--line:#34343c;--card:#1f1f25;--good:#52c98b;
--bad:#ff7b81;--baseline:#a5a5b2;--adapter:#74a5ff;--complex:#4dc792;--expansion:#e5ab4e}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:880px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:clamp(1.6rem,5vw,2.4rem);line-height:1.15;margin:.2em 0 .4em}
h2{font-size:1.3rem;margin:2.4em 0 .3em;border-top:1px solid var(--line);padding-top:1em}
h3{font-size:1rem;margin:1.2em 0 .1em;overflow-wrap:anywhere}
.figure{font-size:clamp(3rem,14vw,5.5rem);font-weight:700;line-height:1;margin:.1em 0;color:var(--adapter)}
.soft,small,figcaption,summary{color:var(--soft)}
.good{color:var(--good)}.bad{color:var(--bad)}
.row{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;margin:.5em 0}
@media (max-width:560px){.row{grid-template-columns:repeat(2,1fr)}}
figure{margin:0;font-size:.85rem}
img{width:100%;height:auto;display:block;background:#fff;border:1px solid var(--line);border-radius:6px}
article{margin-bottom:1.6em}
dl{font-size:.9rem;overflow-wrap:anywhere}dt{color:var(--soft)}dd{margin:0 0 .4em}
.wide{overflow-x:auto;margin:1em 0}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{text-align:left;padding:6px 14px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;white-space:nowrap}td small{white-space:nowrap}
.legend{list-style:none;padding:0;font-size:.9rem}
.dot{display:inline-block;width:.65em;height:.65em;border-radius:50%;margin-right:.4em;background:currentColor}
.arm-baseline{color:var(--baseline);fill:var(--baseline);stroke:var(--baseline)}
.arm-adapter{color:var(--adapter);fill:var(--adapter);stroke:var(--adapter)}
.arm-complex{color:var(--complex);fill:var(--complex);stroke:var(--complex)}
.arm-expansion{color:var(--expansion);fill:var(--expansion);stroke:var(--expansion)}
svg{width:100%;height:auto;display:block;font:12px system-ui,sans-serif}
svg text{fill:var(--ink)}svg text.soft{fill:var(--soft)}svg text.strong{font-weight:600}
.grid{stroke:var(--line);stroke-width:1}.whisker{stroke-width:2.5;stroke-linecap:round}
.curve{fill:none;stroke:var(--adapter);stroke-width:1.8}
.bar{fill:var(--baseline)}.bar.strong{fill:var(--adapter)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(240px,1fr));gap:16px}
"""
