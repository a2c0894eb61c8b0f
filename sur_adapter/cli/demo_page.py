"""What the page of serve.py holds: fields, two pictures, the words that they look at, and the history of the session."""

import random
import shutil
import tempfile
from html import escape
from pathlib import Path
from time import monotonic

import gradio as gr

from sur_adapter.generation.session import GUIDANCE, LONGEST, SEEDS, STRENGTH, Comparison, ComparisonSession

PROMPT = "I can see a green robot who is sprinting"
KEPT = 30  # pairs in the history of a session
SMALL = 128  # pixels: smaller pictures are enlarged without blur


def page(studio: ComparisonSession, folder: Path, guidance: float | None = None) -> gr.Blocks:
    """The page, not yet opened. folder: where the pictures of all sessions lie."""
    with gr.Blocks(title="SUR-adapter", analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        gr.HTML(HEAD)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                *given, draw, other = _fields(studio.strength, guidance or studio.guidance)
                status = gr.HTML(_status("Press Draw, or Shift+Enter in the prompt."), elem_id="status")
            with gr.Column(scale=3, min_width=280):
                with gr.Row(elem_id="two"):
                    sides = [part for label, name in SIDES for part in _side(label, name)]
                looked = gr.HTML("", elem_id="looked")
        with gr.Column(visible=False, elem_id="past") as album:
            gr.HTML(HISTORY)
            history = gr.Gallery(show_label=False, allow_preview=False, interactive=False, buttons=[], elem_id="history")
        past = gr.State([], delete_callback=lambda entries: [_forget(entry) for entry in entries])
        shown = [status, *sides, looked]

        def drawn(past, *values, progress=gr.Progress()):  # noqa: B008  where Gradio looks for it
            return _drawn(studio, folder, past, values, progress)

        def back(past, event: gr.SelectData):
            return [*past[event.index]["values"], *_show(past[event.index])]

        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "pictures", "trigger_mode": "once"}
        events, private = [draw.click, given[0].submit, given[1].submit], {"api_visibility": "private"}
        gr.on(events, drawn, [past, *given], [*shown, album, history, past], show_progress_on=[status], **one_at_a_time, **private)
        other.click(lambda: random.randrange(SEEDS), None, given[2], queue=False, **private)
        history.select(back, past, [*given, *shown], show_progress="hidden", **private)
    return demo


def _fields(strength: float, guidance: float) -> list:
    """What is asked for, in the order of `_drawn`, and two buttons."""
    prompt = gr.Textbox(PROMPT, label="Prompt", lines=3, max_length=LONGEST, elem_id="prompt")
    negative = gr.Textbox("", label="Negative prompt", info="What is not wanted; not adapted.", max_length=LONGEST, elem_id="negative")
    most = max(STRENGTH, strength)
    eta = gr.Slider(0, most, strength, step=0.05, label="Strength of the adapter", info=ETA, buttons=[], elem_id="strength")
    with gr.Row():
        seed = gr.Number(0, label="Seed", min_width=110, elem_id="seed")
        steps = gr.Number(20, label="Steps", min_width=110, elem_id="steps")
    scale = gr.Slider(1, GUIDANCE, guidance, step=0.5, label="Guidance", buttons=[], elem_id="guidance")
    with gr.Row():
        draw = gr.Button("Draw", variant="primary", min_width=110, elem_id="draw")
        other = gr.Button("New seed", min_width=110, elem_id="other")
    return [prompt, negative, seed, steps, eta, scale, draw, other]


def _side(label: str, name: str) -> tuple:
    """One picture, and the button that saves it."""
    with gr.Column(min_width=120):
        gr.HTML(f"<h2>{label}</h2>")
        picture = gr.Image(
            show_label=False, format="png", type="filepath", interactive=False, buttons=[], elem_id=name, alt_text=f"{label} picture"
        )
        save = gr.DownloadButton("Save PNG", size="sm", interactive=False, elem_id=f"save-{name}")
    return picture, save


def _drawn(studio: ComparisonSession, folder: Path, past: list, values: tuple, progress) -> list:
    """What every part of the page shows next. Where it makes no sense, a sentence, and all else stays."""
    prompt, negative, seed, steps, strength, guidance = values
    start = monotonic()
    try:
        pair = studio.draw(
            prompt, negative, seed=seed, steps=steps, strength=strength, guidance=guidance, tell=lambda done: progress(done, desc="Drawing")
        )
    except ValueError as error:
        return [_status(str(error), wrong=True), *[gr.skip()] * 8]
    entry = _entry(folder, pair, values, f"Drawn in {monotonic() - start:.1f} s.")
    past, dropped = [entry, *past][:KEPT], past[KEPT - 1 :]
    for old in dropped:
        _forget(old)
    return [*_show(entry), gr.Column(visible=True), [(e["adapted"], _caption(e)) for e in past], past]


def _entry(folder: Path, pair: Comparison, values: tuple, said: str) -> dict:
    """A drawing as the history keeps it: PNG files of its own, the words, and what it was asked with."""
    place = Path(tempfile.mkdtemp(dir=folder))
    files = {name: place / f"{name}-seed-{int(values[2])}.png" for name in ("plain", "adapted")}
    for name, file in files.items():
        getattr(pair, name).save(file)
    html = _looked(pair.looked) + (SHARP if max(pair.plain.size) < SMALL else "")
    return {"values": list(values), "looked": html, "said": " ".join([said, *pair.notes])} | {k: str(v) for k, v in files.items()}


def _forget(entry: dict) -> None:
    shutil.rmtree(Path(entry["plain"]).parent, ignore_errors=True)


def _show(entry: dict) -> list:
    """status, and for each side its picture and its button, and the words."""
    sides = [part for name in ("plain", "adapted") for part in (entry[name], gr.DownloadButton(value=entry[name], interactive=True))]
    return [_status(entry["said"]), *sides, entry["looked"]]


def _caption(entry: dict) -> str:
    """The prompt stands last: a mark in it that turns the direction turns nothing of ours."""
    prompt, _, seed, _, strength, _ = entry["values"]
    return f"seed {int(seed)}, strength {strength:g}: {prompt[:60]}{'…' if len(prompt) > 60 else ''}"


def _status(text: str, wrong: bool = False) -> str:
    text = text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
    return f'<p role="{"alert" if wrong else "status"}" class="{"wrong" if wrong else "soft"}">{escape(text)}</p>'


def _looked(looked: list[tuple[str, float, float]]) -> str:
    """The prompt's words, each with how much more or less of the attention it gets, in percentage points."""
    largest = max([0.005, *(abs(after - before) for _, before, after in looked)])
    cells = []
    for word, before, after in looked:
        change = after - before
        title = f"{before:.1%} without, {after:.1%} with the adapter".replace("%", " %")
        colour = f"--kind:var(--{'more' if change > 0 else 'less'});--much:{abs(change) / largest * 60:.0f}%"
        points = round(100 * change, 1)
        number = f"{points:+.1f}".replace("-", "−") if points else "0.0"  # what rounds to nothing has no sign
        cells.append(f'<li style="{colour}" title="{title}"><bdi>{escape(word)}</bdi><small>{number}</small></li>')
    before, after = (f"{100 * sum(row[i] for row in looked):.0f} %" for i in (1, 2))
    return LOOKED.format(cells="".join(cells), before=before, after=after)


ETA = "0: the base model; 1: the whole adapter; more: beyond its training."
SIDES = (("Plain", "plain"), ("Adapted", "adapted"))
HEAD = """<h1>SUR-adapter</h1><p class="soft">One prompt, drawn plain and with the adapter, from the same noise.</p>"""
HISTORY = """<h2>History</h2><p class="soft">Pictures with the adapter, of this session: press one to have it back.</p>"""
LOOKED = """<section aria-labelledby="looked-at"><h2 id="looked-at">What the pictures look at</h2><ul class="words">{cells}</ul>
<p class="soft">A hint: how many percentage points of the U-Net's attention a word <b class="more">gains</b> or <b class="less">loses</b>
by the adapter. All words together: {before} without, {after} with it; the rest goes to the beginning, the end and the padding.</p>
</section>"""
SHARP = "<style>#plain img,#adapted img,#history img{image-rendering:pixelated}</style>"
STYLE = """
.gradio-container{--more:#2563d8;--less:#b4500a;--calm:#5f5f69}
.dark{color-scheme:dark;--more:#74a5ff;--less:#ff9d5c;--calm:#a5a5b1}
.gradio-container>main,.gradio-container main.app{max-width:1100px;margin:0 auto!important}
.gradio-container .info-text{color:var(--calm)!important}
.gradio-container h1{font-size:1.7rem!important;font-weight:700;margin:0!important}
.gradio-container h2{font-size:1.05rem!important;font-weight:600;margin:0!important}
.gradio-container .html-container{padding:0!important}
.gradio-container p.soft{color:var(--calm);margin:.2em 0}
.gradio-container p.wrong{color:#b91c1c;font-weight:600;margin:.2em 0}
.dark p.wrong{color:#ff8a8a!important}
#status{min-height:3.2em}
#status:has(.wrap:not(.hide)) p{visibility:hidden}
#two{flex-wrap:nowrap}
#plain,#adapted{aspect-ratio:1}
#plain .image-frame,#adapted .image-frame,#plain img,#adapted img{width:100%;height:100%;object-fit:contain}
ul.words{display:flex;flex-wrap:wrap;gap:6px;list-style:none!important;padding:0!important;margin:.4em 0!important}
ul.words li{display:flex;flex-direction:column;align-items:center;padding:3px 8px!important;margin:0!important;border-radius:6px;
max-width:100%;background:color-mix(in srgb,var(--kind) var(--much),transparent);border:1px solid var(--border-color-primary)}
ul.words bdi{overflow-wrap:anywhere}ul.words small{font-variant-numeric:tabular-nums}
b.more{color:var(--more)!important}b.less{color:var(--less)!important}
#history{border:0!important;background:none}
#history .gallery-container,#history .grid-wrap{min-height:0!important;height:auto!important;max-height:none!important;padding:0}
#history .grid-container{display:grid;grid-template-columns:repeat(auto-fill,minmax(104px,1fr));gap:10px;padding:0}
#history .thumbnail-item{aspect-ratio:auto;height:auto;width:100%;display:flex;flex-direction:column}
#history .thumbnail-item img{aspect-ratio:1;height:auto}
#history .caption-label{position:static;max-width:100%;white-space:normal;overflow-wrap:anywhere;font-size:.72rem;text-align:left;
border:0;border-radius:0;padding:4px;line-height:1.25;box-shadow:none}
"""
