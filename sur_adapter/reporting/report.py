"""The report: one HTML file that stands alone, without network, script or clock."""

import re
from html import escape

import pandas as pd

import sur_adapter.reporting.charts as svg
from sur_adapter.evaluation.counting import COUNTED, confusion
from sur_adapter.evaluation.sample_selection import HEADINGS, choose
from sur_adapter.evaluation.summary import categories
from sur_adapter.generation.arms import ARMS
from sur_adapter.reporting.html import document, said, table, tame
from sur_adapter.reporting.provenance import colophon
from sur_adapter.reporting.sample_pictures import arm_label, articles

__all__ = ["choose", "page"]
TOLD = {
    "clip_score": "The CLIP score is with the plain prompt in every arm, by a CLIP of its own.",
    "diversity": "Diversity is how far the seeds of a prompt lie apart: 0 would be one picture.",
}


def page(
    numbers: dict, notes: dict, judged: pd.DataFrame, asked: dict, rows: dict, pictures: dict, *, funnel, history, config, **more
) -> str:
    """The HTML. rows: of `choose`; pictures: (arm, prompt id, seed) -> bytes; funnel, history, config: as their stages wrote them.

    more: params (sections of params.yaml), data (the data card, Markdown); what is not given is not shown.
    """
    arms = [arm for arm in ARMS if arm in set(judged.arm)]
    by_key = judged.set_index(["arm", "id", "seed"])
    sections = {
        "What the pictures show": _accuracy(numbers, arms),
        "How many were asked for, how many are there": _counting(judged, arms),
        "How much of the adapter": _strength(numbers.get("strength", {})),
        "What people prefer": _people(numbers.get("human", {})),
    }
    for heading, (title, text) in HEADINGS.items():
        shown = articles(rows[heading], by_key, asked, arms, pictures)
        sections[title] = f"<p>{text} Same seed, same noise in each row.</p>{shown}"
    sections |= {
        "What the pictures are like": _measures(numbers, arms),
        "How it was trained": _training(history),
        "Where the data went": _funnel(funnel),
        "What it was made of": colophon(config, more.get("params") or {}, more.get("data") or ""),
        "How far to trust this": _caveats(numbers, notes),
    }
    return document("SUR-adapter: what it does", _body(_headline(numbers, notes), sections), STYLE)


def _body(headline: str, sections: dict[str, str]) -> str:
    there = {re.sub(r"\W+", "-", title.lower()): (title, text) for title, text in sections.items() if text}
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, (title, _) in there.items())
    parts = [f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{text}</section>' for name, (title, text) in there.items()]
    head = f'<a class="skip" href="#main">Skip to the figures</a>\n{headline}\n<nav aria-label="Contents"><ul>{links}</ul></nav>'
    return f'{head}\n<main id="main">\n' + "\n".join(parts) + "\n</main>"


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


def _accuracy(numbers: dict, arms: list[str]) -> str:
    semantic = numbers.get("semantic")
    if not semantic:
        return ""
    names = [*categories(semantic), "overall"]
    rows = [[arm_label(a)] + [_interval(**semantic[n][a]) for n in names] for a in arms]
    differences = [semantic["difference"] if n == "overall" else semantic["difference"][n] for n in names]
    rows.append(["adapter − baseline"] + [_difference(d) for d in differences])
    rows.append(["better / same / worse"] + [f"{d['win']} / {d['tie']} / {d['loss']}" for d in differences])
    if harm := semantic.get("on_complex"):
        rows.append(["keyword prompts: with − without"] + [""] * (len(names) - 1) + [_difference(harm)])
    gaps = [semantic["gap_closed"] if n == "overall" else semantic["gap_closed"].get(n, {}) for n in names]
    rows.append(["gap closed"] + [_interval(g["value"], g["low"], g["high"]) if "value" in g else "left out" for g in gaps])
    chart = svg.intervals({n: {a: tuple(semantic[n][a][k] for k in ("value", "low", "high")) for a in arms} for n in names}, "Accuracy")
    legend = "".join(f"<li>{arm_label(a)}: {ARMS[a].meant}</li>" for a in arms)
    text = "How often a picture shows all that was asked for, and nothing besides. Intervals are 95 %, over prompts."
    head = f'<p>{text}</p><ul class="legend">{legend}</ul>'
    return f"{head}{chart}{table('Accuracy by arm and category', ['', *map(said, names)], rows)}"


def _interval(value: float, low: float, high: float) -> str:
    return f"<b>{_percent(value)}</b> <small>{100 * low:.0f}–{100 * high:.0f}</small>"


def _difference(d: dict) -> str:
    p = d.get("p_holm", d["p"])
    chance = "p &lt; 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"<b>{100 * d['value']:+.0f}</b> <small>{100 * d['low']:+.0f} to {100 * d['high']:+.0f}; {chance}</small>"


def _counting(judged: pd.DataFrame, arms: list[str]) -> str:
    """Rows: asked for; columns: counted by the judge; of each cell how many pictures, the diagonal set off."""
    if COUNTED not in judged or judged[COUNTED].isna().all():
        return ""
    found = {arm: confusion(judged, arm) for arm in arms if arm in ("baseline", "adapter")}
    tables = []
    for arm, cells in found.items():
        last = cells.columns[-1]
        head = ["asked", *(f"{n} there" if n < last else f"{n} or more" for n in cells.columns)]
        rows = [[str(n)] + [_cell(cells.loc[n, k], cells.loc[n].sum(), k == n) for k in cells.columns] for n in cells.index]
        tables.append(f"<h3>{arm_label(arm)}</h3>{table(f'{arm}: asked for and counted', head, rows)}")
    return f"<p>A row: how many were asked for. A column: how many the judge counts. In each cell: pictures.</p>{''.join(tables)}"


def _cell(n: int, of: int, right: bool) -> str:
    share = 30 * n / of if of else 0  # per cent of ink: the figure on it stays readable
    return f'<span class="cell{" right" if right else ""}" style="--share:{share:.0f}%">{n}</span>'


def _strength(found: dict) -> str:
    """found: strength, as a word, -> value, low, high."""
    points = sorted((float(eta), *(at[k] for k in ("value", "low", "high"))) for eta, at in found.items())
    text = (
        "Accuracy over all categories by the adapter's strength, on some of the prompts: 0 is the base model, 1 as it was trained. "
        "Whiskers are 95 % intervals."
    )
    return f"<p>{text}</p>{svg.dose(points, 'Accuracy by strength', 'strength')}" if points else ""


def _people(human: dict) -> str:
    """human: of vote.figures; nothing where nobody voted."""
    if not human:
        return ""
    rate = human["win_rate"]
    counts = f"{human['votes']} votes of {human['raters']} raters on {human['pairs']} pairs of pictures"
    agree = f" Raters agree with Krippendorff's α = {human['agreement']:.2f}." if "agreement" in human else ""
    between = f"95 % interval {_percent(rate['low'])} to {_percent(rate['high'])}"
    text = f"<b>{_percent(rate['value'])}</b> for the picture with the adapter against the one without ({between}; {counts})."
    return f"<p>{text} A tie counts as half; half of all would be no difference. The sides were hidden.{agree}</p>"


def _measures(numbers: dict, arms: list[str]) -> str:
    quality = {name: of for name, of in numbers["quality"].items() if isinstance(of, dict)}
    found = {name: of for name, of in numbers.items() if isinstance(of, dict) and isinstance(of.get("adapter"), (int, float))} | quality
    arms = [arm for arm in arms if arm != "complex_adapter"]  # a phone has no room for it; metrics.json has its numbers
    rows = [[name.replace("_", " ")] + [_figure(of.get(arm)) for arm in arms] for name, of in found.items()]
    lost = [name.replace("_", " ") for name, of in quality.items() if of.get("regressed")]
    verdict = f"With the adapter, pictures lose {' and '.join(lost)}." if lost else "With the adapter, no measure of quality is lost."
    told = [text for name, text in TOLD.items() if name in found] + [verdict]
    return f"<p>{' '.join(told)}</p>{table('Measures by arm', ['', *map(arm_label, arms)], rows)}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.{1 if abs(value) >= 1 else 3}f}"


def _training(history) -> str:
    """Every number of the history, as a curve of its own."""
    rows = [row for row in history if isinstance(row, dict) and "step" in row]
    points: dict[str, list] = {}
    for row in rows:
        for key, value in row.items():
            if key != "step" and isinstance(value, (int, float)):
                points.setdefault(key, []).append((row["step"], value))
    curves = "".join(svg.curve(line, key.replace("_", " ")) for key, line in points.items())
    return f'<div class="charts">{curves or "No history was written."}</div>'


def _funnel(funnel: dict) -> str:
    """Rows in, dropped by reason, kept: one chart a source; and how the kept ones were split."""
    sources = funnel.get("by_source", {})
    groups = sources if len(sources) == 1 else {"all sources": funnel} | sources
    charts = "".join(f"<h3>{said(name)}</h3>{_reasons(rows, name)}" for name, rows in groups.items())
    split = ", ".join(f"{n:,} {escape(name)}" for name, n in funnel.get("by_split", {}).items())
    return f"{charts}{f'<p>Of those kept: {split}.</p>' if split else ''}"


def _reasons(rows: dict, name: str) -> str:
    dropped = {f"dropped: {reason}".replace("_", " "): n for reason, n in rows.get("dropped", {}).items()}
    counts = {"crawled": rows.get("in", 0)} | dropped | {"kept": rows.get("kept", 0)}
    return svg.bars(counts, f"{tame(name)}: {counts['kept']} of {counts['crawled']} pairs were kept", ("kept",))


def _caveats(numbers: dict, notes: dict) -> str:
    found = [
        "The unit is the prompt: its seeds are averaged first, so many pictures of few prompts do not narrow an interval.",
        f"The prompts are one list of {numbers['counts']['prompts']}; other people's sentences may behave otherwise.",
        "The keyword prompt is a ceiling only for this base model; a picture can be wrong in every arm.",
        "Sharpness, contrast, colourfulness and entropy do not know what is good; they only say where arms differ.",
        "p-values of accuracy by category and of the CLIP score are corrected together (Holm); others are not.",
    ]
    differences = numbers.get("semantic", {}).get("difference")
    if differences and "smallest_detectable" in differences:
        least = 100 * differences["smallest_detectable"]
        found.append(f"With so many prompts, a difference in accuracy under {least:.0f} points would often go unseen.")
    found = [escape(f) for f in found] + [f"Left out: <b>{said(key)}</b>, since {said(why)}." for key, why in sorted(notes.items())]
    return f"<ul>{''.join(f'<li>{f}</li>' for f in found)}</ul>"


STYLE = """
nav ul{display:flex;flex-wrap:wrap;gap:.2em 1.2em;list-style:none;padding:0;font-size:.9rem}
nav a{display:inline-block;padding:.2em 0}
.figure{font-size:clamp(3rem,14vw,5.5rem);font-weight:700;line-height:1;margin:.1em 0;color:var(--adapter)}
.good{color:var(--good)}.bad{color:var(--bad)}
.row{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;margin:.5em 0}
@media (max-width:560px){.row{grid-template-columns:repeat(2,1fr)}thead .dot{display:none}}
article{margin-bottom:1.6em}
dl{font-size:.9rem}dt{color:var(--soft)}dd{margin:0 0 .4em}
.legend{list-style:none;padding:0;font-size:.9rem}
.dot{display:inline-block;width:.65em;height:.65em;border-radius:50%;margin-right:.4em;background:currentColor}
.arm-baseline{color:var(--baseline);fill:var(--baseline);stroke:var(--baseline)}
.arm-adapter{color:var(--adapter);fill:var(--adapter);stroke:var(--adapter)}
.arm-complex{color:var(--complex);fill:var(--complex);stroke:var(--complex)}
.arm-complex_adapter{color:var(--complex_adapter);fill:var(--complex_adapter);stroke:var(--complex_adapter)}
.arm-expansion{color:var(--expansion);fill:var(--expansion);stroke:var(--expansion)}
.cell{display:inline-block;min-width:2.2em;padding:0 .3em;background:color-mix(in srgb,var(--adapter) var(--share),transparent)}
.cell.right{font-weight:700;box-shadow:inset 0 -2px var(--adapter)}
svg{width:100%;height:auto;display:block;font:12px system-ui,sans-serif}
svg text{fill:var(--ink);stroke:none}svg text.soft{fill:var(--soft)}svg text.strong{font-weight:600}
.grid{stroke:var(--line);stroke-width:1}.whisker{stroke-width:2.5;stroke-linecap:round}
.curve{fill:none;stroke:var(--adapter);stroke-width:1.8}
.bar{fill:var(--baseline)}.bar.strong{fill:var(--adapter)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(240px,1fr));gap:16px}
"""
