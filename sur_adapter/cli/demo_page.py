"""The web page of the demo: input fields, two images, the attention of the prompt's words, and the history of the session."""

import random
import shutil
import tempfile
from html import escape
from pathlib import Path
from time import monotonic

import gradio as gr

from sur_adapter.cli.known_models import known_model, without_folders
from sur_adapter.generation.session import (
    MAX_GUIDANCE_SCALE,
    MAX_PROMPT_LENGTH,
    MAX_SCALE,
    MAX_SEED,
    Comparison,
    ComparisonSession,
)

PROMPT = "there are three red circles in the picture"
MAX_HISTORY = 30  # comparisons of a session
SMALL_SIDE = 128  # pixels: smaller images are enlarged without smoothing


def build_page(session: ComparisonSession, folder: Path, adapter: str | Path, guidance_scale: float | None = None) -> gr.Blocks:
    """Builds the page; launch() opens it. folder: for the images of all users. adapter: its name. guidance_scale: first value."""
    guidance_scale = guidance_scale or known_model(session.model).guidance_scale or session.default_guidance_scale
    with gr.Blocks(title="SUR-adapter", analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        gr.HTML(_head(session.model, adapter))
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                *inputs, button, new_seed = _inputs(session.default_scale, guidance_scale)
                status = gr.HTML(_status("Press Generate, or Shift+Enter in the prompt."), elem_id="status")
            with gr.Column(scale=3, min_width=280):
                with gr.Row(elem_id="two"):
                    sides = [part for label, name in SIDES for part in _image_with_button(label, name)]
                attention = gr.HTML("", elem_id="attention")
        with gr.Column(visible=False, elem_id="past") as history_column:
            gr.HTML(HISTORY)
            gallery = gr.Gallery(show_label=False, allow_preview=False, interactive=False, buttons=[], elem_id="history")
        entries = gr.State([], delete_callback=lambda removed: [_delete_files(entry) for entry in removed])
        shown = [status, *sides, attention]

        def generate(entries, *values, progress=gr.Progress()):  # noqa: B008  where Gradio looks for it
            return _generate(session, folder, entries, values, progress)

        def select(entries, event: gr.SelectData):
            return [*entries[event.index]["values"], *_show(entries[event.index])]

        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "images", "trigger_mode": "once"}
        events, private = [button.click, inputs[0].submit, inputs[1].submit], {"api_visibility": "private"}
        outputs = [*shown, history_column, gallery, entries]
        gr.on(events, generate, [entries, *inputs], outputs, show_progress_on=[status], **one_at_a_time, **private)
        new_seed.click(lambda: random.randrange(MAX_SEED), None, inputs[2], queue=False, **private)
        gallery.select(select, entries, [*inputs, *shown], show_progress="hidden", **private)
    return demo


def _head(model: str, adapter: str | Path) -> str:
    """The title, what is loaded, and what the model can draw if that is little."""
    names = {key: escape(without_folders(name)) for key, name in {"model": model, "adapter": adapter}.items()}
    draws = known_model(model).draws
    return HEAD.format(**names, draws=f" This model draws only {escape(draws)}." if draws else "")


def _inputs(scale: float, guidance_scale: float) -> list:
    """Creates the six fields in the order of `values` in `_generate`, and two buttons."""
    prompt = gr.Textbox(PROMPT, label="Prompt", lines=3, max_length=MAX_PROMPT_LENGTH, elem_id="prompt")
    negative = gr.Textbox("", label="Negative prompt", info="It is not adapted.", max_length=MAX_PROMPT_LENGTH, elem_id="negative")
    highest = max(MAX_SCALE, scale)
    adapter_scale = gr.Slider(0, highest, scale, step=0.05, label="Scale of the adapter", info=SCALE_INFO, buttons=[], elem_id="scale")
    with gr.Row():
        seed = gr.Number(0, label="Seed", min_width=110, elem_id="seed")
        steps = gr.Number(20, label="Steps", min_width=110, elem_id="steps")
    guidance = gr.Slider(1, MAX_GUIDANCE_SCALE, guidance_scale, step=0.5, label="Guidance scale", buttons=[], elem_id="guidance")
    with gr.Row():
        button = gr.Button("Generate", variant="primary", min_width=110, elem_id="generate")
        new_seed = gr.Button("New seed", min_width=110, elem_id="new-seed")
    return [prompt, negative, seed, steps, adapter_scale, guidance, button, new_seed]


def _image_with_button(label: str, name: str) -> tuple:
    """Creates an image, and the button that saves it."""
    with gr.Column(min_width=120):
        gr.HTML(f"<h2>{label}</h2>")
        image = gr.Image(
            show_label=False, format="png", type="filepath", interactive=False, buttons=[], elem_id=name, alt_text=f"{label} image"
        )
        save = gr.DownloadButton("Save PNG", size="sm", interactive=False, elem_id=f"save-{name}")
    return image, save


def _generate(session: ComparisonSession, folder: Path, entries: list, values: tuple, progress) -> list:
    """Returns the new values of all outputs. For invalid input, an error in the status; the rest does not change."""
    prompt, negative, seed, steps, scale, guidance_scale = values
    start = monotonic()
    try:
        comparison = session.compare(
            prompt,
            negative,
            seed=seed,
            num_inference_steps=steps,
            scale=scale,
            guidance_scale=guidance_scale,
            on_progress=lambda share: progress(share, desc="Generating"),
        )
    except ValueError as error:
        return [_status(str(error), error=True), *[gr.skip()] * 8]
    entry = _entry(folder, comparison, values, f"Generated in {monotonic() - start:.1f} s.")
    entries, dropped = [entry, *entries][:MAX_HISTORY], entries[MAX_HISTORY - 1 :]
    for old in dropped:
        _delete_files(old)
    return [*_show(entry), gr.Column(visible=True), [(e["adapted"], _caption(e)) for e in entries], entries]


def _entry(folder: Path, comparison: Comparison, values: tuple, message: str) -> dict:
    """An entry of the history: paths of its two PNG files, the attention as HTML, the values of the fields, and the status."""
    place = Path(tempfile.mkdtemp(dir=folder))
    files = {name: place / f"{name}-seed-{int(values[2])}.png" for name in ("plain", "adapted")}
    for name, file in files.items():
        getattr(comparison, name).save(file)
    html = _attention_html(comparison.attention) + (PIXELATED if max(comparison.plain.size) < SMALL_SIDE else "")
    status = " ".join([message, *comparison.warnings])
    return {"values": list(values), "attention": html, "status": status} | {name: str(file) for name, file in files.items()}


def _delete_files(entry: dict) -> None:
    shutil.rmtree(Path(entry["plain"]).parent, ignore_errors=True)


def _show(entry: dict) -> list:
    """Values of the outputs `shown`: status, image and button of each side, attention."""
    sides = [part for name in ("plain", "adapted") for part in (entry[name], gr.DownloadButton(value=entry[name], interactive=True))]
    return [_status(entry["status"]), *sides, entry["attention"]]


def _caption(entry: dict) -> str:
    """The prompt comes last, so that a right-to-left mark in it does not affect the other text."""
    prompt, _, seed, _, scale, _ = entry["values"]
    return f"seed {int(seed)}, scale {scale:g}: {prompt[:60]}{'…' if len(prompt) > 60 else ''}"


def _status(text: str, error: bool = False) -> str:
    text = text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
    return f'<p role="{"alert" if error else "status"}" class="{"wrong" if error else "soft"}">{escape(text)}</p>'


def _attention_html(rows: list[tuple[str, float, float]]) -> str:
    """The words of the prompt, each with the change of its attention in percentage points. rows: (word, share without, share with)."""
    largest = max([0.005, *(abs(after - before) for _, before, after in rows)])
    cells = []
    for word, before, after in rows:
        change = after - before
        title = f"{before:.1%} without, {after:.1%} with the adapter".replace("%", " %")
        style = f"--kind:var(--{'more' if change > 0 else 'less'});--much:{abs(change) / largest * 60:.0f}%"
        points = round(100 * change, 1)
        number = f"{points:+.1f}".replace("-", "−") if points else "0.0"  # no sign if it rounds to zero
        cells.append(f'<li style="{style}" title="{title}"><bdi>{escape(word)}</bdi><small>{number}</small></li>')
    before, after = (f"{100 * sum(row[i] for row in rows):.0f} %" for i in (1, 2))
    return ATTENTION.format(cells="".join(cells), before=before, after=after)


SCALE_INFO = "0: the base model; 1: the whole adapter; above 1: beyond its training."
SIDES = (("Plain", "plain"), ("Adapted", "adapted"))
HEAD = """<h1>SUR-adapter</h1><p class="soft">One prompt, without and with the adapter, from the same initial noise. Model
<b><bdi id="model">{model}</bdi></b>, adapter <b><bdi id="adapter">{adapter}</bdi></b>.{draws}</p>"""
HISTORY = """<h2>History</h2><p class="soft">Images with the adapter from this session. Press one to show it again.</p>"""
ATTENTION = """<section aria-labelledby="attention-title"><h2 id="attention-title">Attention per word</h2><ul class="words">{cells}</ul>
<p class="soft">Percentage points of the U-Net's cross-attention that a word <b class="more">gains</b> or <b class="less">loses</b> with the
adapter; a hint only. All words together: {before} without, {after} with it; start token, end token and padding get the rest.</p>
</section>"""
PIXELATED = "<style>#plain img,#adapted img,#history img{image-rendering:pixelated}</style>"
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
