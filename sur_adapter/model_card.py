"""The model card: what an adapter is, how it is used, what it was found to do. Markdown, with the YAML head that the hub reads.

Everything comes from the adapter's config and from metrics.json; what stands in neither is left out. Both may come from strangers:
YAML is written by the hub's own library, all other words are escaped.
"""

import re
from html import escape
from math import isfinite

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from sur_adapter.generation.arms import ARMS

TAGS = ["text-to-image", "stable-diffusion", "diffusers", "sur-adapter", "arxiv:2305.05189"]
WHAT = """A small network behind the frozen text encoder of {base}, so that plain sentences draw as well as keyword prompts.
It implements the method of Zhong et al., *SUR-adapter: Enhancing Text-to-Image Pre-trained Diffusion Models with Large Language Models*,
ACM MM 2023 (arXiv 2305.05189). Text encoder, U-Net and VAE stay as they are, and no language model is needed when pictures are drawn."""
USE = """```python
from diffusers import DiffusionPipeline
from sur_adapter import SURAdapter, attach

pipe = DiffusionPipeline.from_pretrained({base!r})
handle = attach(pipe, SURAdapter.from_pretrained({name!r}))
image = pipe("three white kittens play with a ball of yarn").images[0]
handle.strength = 0.5  # as much of it as is wanted; 0 is the base model
handle.remove()
```"""
LIMITS = """* It fits the text encoder that it was trained for, and `attach` refuses any other that it can tell from it.
* What the base model cannot draw it does not teach, and the base model's biases and terms of use stay.
* The figures hold for the prompts, the base model and the judge that they were measured with, and for nothing else."""


def card(config, metrics: dict | None = None, *, name: str, licence: str | None = None, datasets: list[str] | None = None) -> str:
    """The card of the adapter `name`, a folder or a name on the hub. config: AdapterConfig; metrics: what metrics.json holds.

    licence: of the weights, an identifier as the hub knows them. datasets: names on the hub. Raises ValueError where they cannot be such.
    """
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise ValueError(f"the licence {licence!r} is no identifier as the hub knows them: give one like mit, apache-2.0 or openrail")
    if wrong := [d for d in datasets or [] if not _on_hub(d)]:
        raise ValueError(f"the data set {wrong[0]!r} cannot be a name on the hub: give owner/name")
    base = _about(config).get("base_model")
    head = ModelCardData(
        license=licence or "other",
        license_name=None if licence else "not-stated",
        base_model=base if _on_hub(base) else None,
        base_model_relation="adapter" if _on_hub(base) else None,
        datasets=datasets or None,
        library_name="sur-adapter",
        pipeline_tag="text-to-image",
        tags=TAGS,
    )
    known = said(base) if base else "a diffusion model that is not known"
    found = _figures(metrics or {})
    sections = [
        f"---\n{head.to_yaml()}\n---",
        f"# SUR-adapter for {known}",
        WHAT.format(base=known),
        "## Use it",
        USE.format(base=str(base) if base else "the model that it was trained for", name=str(name)),
        *(["## What it was found to do", *found] if found else []),
        "## What it is made of",
        _table([("", ""), *facts(config).items()]),
        "## Limits",
        LIMITS,
        "## Licence",
        f"The weights: {licence}." if licence else "Nobody has said under which licence these weights may be used: ask who made them.",
    ]
    return "\n\n".join(sections) + "\n"


def facts(config) -> dict[str, str]:
    """What is known of an adapter, by name, in the order to be told; what is not known is left out."""
    about, loss, train = _about(config), _about(config).get("loss"), _about(config).get("train")
    weights = {k.removeprefix("w_"): v for k, v in loss.items() if k.startswith("w_")} if isinstance(loss, dict) else {}
    form = f"prompt loss {loss.get('prompt')}" if weights else ""
    steps = (
        [f"{key} {train[key]}" for key in ("steps", "batch", "optimizer", "lr", "seed") if key in train] if isinstance(train, dict) else []
    )
    layers = about.get("layers")
    found = {
        "base model": about.get("base_model") or "not known",
        "text encoder": about.get("text_encoder"),
        "second text encoder": about.get("text_encoder_2"),
        "variant": config.variant + (", attention as published" if config.published_attention else ""),
        "width": config.width,
        "pooled width": config.pooled_width or None,
        "depth, heads": f"{config.depth}, {config.heads}",
        "strength": config.strength,
        "LLM": about.get("llm"),
        "LLM layers": ", ".join(map(str, layers)) if isinstance(layers, list) else layers,
        "LLM pooling": about.get("pooling"),
        "LLM width": config.teacher_width or None,
        "losses": ", ".join([form, *(f"{key} × {value}" for key, value in weights.items())]) if weights else None,
        "training": ", ".join(steps) or None,
        "data": about.get("data"),
        "code": about.get("code"),
        "checkpoint": about.get("checkpoint"),
    }
    return {key: plain(value) for key, value in found.items() if value is not None}


def plain(value) -> str:
    """One line of what can be printed, whoever wrote it: no line's end, nothing that moves a terminal's cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def said(value) -> str:
    """The same as Markdown that shows it as it stands."""
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", escape(plain(value), quote=False))


def _about(config) -> dict:
    return config.about if isinstance(config.about, dict) else {}


def _on_hub(name) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return isinstance(name, str) and "/" in name


def _figures(metrics: dict) -> list[str]:
    """Accuracies by arm with their intervals, and what the adapter changes; nothing where nothing was measured."""
    semantic = _dict(metrics.get("semantic"))
    columns = [name for name, arms in semantic.items() if any(_interval(_dict(arms).get(arm)) for arm in ARMS)]
    columns.sort(key=lambda name: name == "overall")  # a stable sort: the others stay as they are
    rows = [("arm", *columns)]
    for arm, told in ARMS.items():
        cells = [_interval(_dict(semantic[name]).get(arm)) or "–" for name in columns]
        rows += [(told.meant, *cells)] if any(cell != "–" for cell in cells) else []
    changes = [
        ("Gap closed, of that between plain and keyword prompts: ", semantic.get("gap_closed")),
        ("What the adapter changes on plain prompts: ", semantic.get("difference")),
        ("What it changes on keyword prompts: ", semantic.get("on_complex")),
        ("What it changes in CLIP score on plain prompts: ", _dict(metrics.get("clip_score")).get("difference")),
    ]
    lines = [f"* {words}{text}" for words, values in changes if (text := _interval(values))]
    counts = _dict(metrics.get("counts"))
    if all(_number(counts.get(key)) for key in ("prompts", "seeds", "pictures")):
        lines.append(f"* {counts['prompts']} prompts, {counts['seeds']} seeds each, {counts['pictures']} pictures in all")
    regressed = _dict(metrics.get("quality")).get("regressed")
    if _number(regressed):
        lines.append(f"* Picture quality: {'it got worse' if regressed else 'no measure got worse'}")
    table = [
        "Share of pictures that show what was asked, on the same seeds and noise, with 95 % intervals:",
        _table(rows),
    ]
    return [*(table if len(rows) > 1 else []), *(["\n".join(lines)] if lines else [])]


def _interval(values) -> str:
    """0.57 (0.43 to 0.71), or nothing."""
    value, low, high = (_dict(values).get(key) for key in ("value", "low", "high"))
    if not _number(value):
        return ""
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if _number(low) and _number(high) else "")


def _number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _dict(value) -> dict:
    return value if isinstance(value, dict) else {}


def _table(rows: list[tuple]) -> str:
    lines = [[said(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])
