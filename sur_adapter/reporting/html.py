"""What every page of ours is built of: texts from elsewhere made harmless, tables, pictures, and one HTML file around them.

A page stands alone: no network, no clock, no script but one whose hash its own policy names. Prompts come from strangers:
whatever they hold is shown as text (`said`), never as markup.
"""

import base64
from hashlib import sha256
from html import escape
from io import BytesIO
from unicodedata import category

from sur_adapter.io.images import open_image

SIDE = 256  # pixels: larger pictures are shown as thumbnails
LONGEST = 300  # characters shown of a text from elsewhere
TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")  # marks that change the direction of what follows


def tame(text: str, longest: int = LONGEST) -> str:
    """A text from elsewhere, cut, without control characters and marks that turn the direction; not yet escaped."""
    kept = "".join(c for c in str(text) if c not in TURNING and category(c) not in ("Cc", "Cs"))
    return kept if len(kept) <= longest else kept[:longest] + "…"


def said(text: str, longest: int = LONGEST) -> str:
    """A text from elsewhere as HTML, in an isle of its own direction."""
    return f"<bdi>{escape(tame(text, longest))}</bdi>"


def table(caption: str, head: list[str], rows: list[list[str]]) -> str:
    """The caption is text, the cells are HTML already. Where it is wider than the screen, the table scrolls, not the page."""
    top = "".join(f'<th scope="col">{cell}</th>' if cell else "<td></td>" for cell in head)
    body = "".join(f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows)
    inner = f'<caption class="unseen">{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody>'
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>{inner}</table></div>'


def picture(data: bytes, alt: str, side: int = SIDE) -> str:
    """<img> with the picture inside, no longer than `side` pixels; whatever else its file held stays out."""
    image = open_image(data)
    if max(image.size) > side:
        image.thumbnail((side, side))
    kind, buffer = "png" if max(image.size) < SIDE else "webp", BytesIO()
    image.save(buffer, kind, quality=85)
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return f'<img src="{source}" width="{image.width}" height="{image.height}" alt="{escape(alt)}">'


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """The file. style and script are ours alone; what the body holds cannot run, whatever it is."""
    policy = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", "base-uri 'none'", "form-action 'none'"]
    if script:
        policy.append(f"script-src 'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'")
        script = f"<script>{script}</script>\n"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{"; ".join(policy)}">
<title>{escape(title)}</title><style>{STYLE}{style}</style></head>
<body>
{body}
{script}</body></html>
"""


STYLE = """
:root{color-scheme:light dark;--paper:#fdfcfa;--ink:#1d1d22;--soft:#5f5f69;--line:#d8d4cc;--card:#fff;--good:#1a7f4b;--bad:#c2333b;
--baseline:#74747f;--adapter:#2563d8;--complex:#1a7d52;--complex_adapter:#8a3fb8;--expansion:#a1660a}
@media (prefers-color-scheme:dark){:root{--paper:#16161a;--ink:#ececf0;--soft:#a5a5b1;--line:#3a3a43;--card:#1f1f25;--good:#52c98b;
--bad:#ff7b81;--baseline:#a5a5b2;--adapter:#74a5ff;--complex:#4dc792;--complex_adapter:#c792ea;--expansion:#e5ab4e}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:880px;padding:24px 16px 64px;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:clamp(1.6rem,5vw,2.4rem);line-height:1.15;margin:.2em 0 .4em}
h2{font-size:1.3rem;margin:2.4em 0 .3em;border-top:1px solid var(--line);padding-top:1em}
h3{font-size:1rem;margin:1.2em 0 .1em}
h1,h2,h3,h4,p,li,dd,td,bdi{overflow-wrap:anywhere}
thead th,thead th bdi{overflow-wrap:break-word}
tbody th{min-width:5.5em}
.soft,small,figcaption,summary,caption{color:var(--soft)}
:focus-visible{outline:3px solid var(--adapter);outline-offset:2px;border-radius:4px}
.skip{position:absolute;left:-999px}.skip:focus{position:static}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
a{color:var(--adapter)}
figure{margin:0;font-size:.85rem}
img{width:100%;height:auto;display:block;background:#fff;border:1px solid var(--line);border-radius:6px}
.wide{overflow-x:auto;margin:1em 0;position:relative}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{text-align:left;padding:6px 14px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600}td small{white-space:nowrap}
@media (max-width:560px){body{padding:16px 12px 48px}table{font-size:.72rem}
th,td{padding:6px 3px 6px 0}td small{display:block;white-space:normal}}
"""
