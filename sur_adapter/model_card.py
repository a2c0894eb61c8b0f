"""The model card of an adapter: Markdown with the YAML head that the hub reads.

All facts come from the adapter's config and from metrics.json; what is in neither is left out. Both files may be untrusted: the YAML is
written by huggingface_hub, and every other value is escaped.
"""

import re
from html import escape
from math import isfinite

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.generation.arms import ARMS

TAGS = ["text-to-image", "stable-diffusion", "diffusers", "sur-adapter", "arxiv:2305.05189"]
DESCRIPTION = """A small network between the frozen text encoder and the frozen U-Net of {base}. It makes plain sentences work as
well as keyword prompts. The method is that of Zhong et al., *SUR-adapter: Enhancing Text-to-Image Pre-trained Diffusion Models
with Large Language Models*, ACM MM 2023 (arXiv 2305.05189). Text encoder, U-Net and VAE do not change, and generation needs no
language model."""
USAGE = """```python
from diffusers import DiffusionPipeline
from sur_adapter import SURAdapter, attach

pipe = DiffusionPipeline.from_pretrained({base!r})
handle = attach(pipe, SURAdapter.from_pretrained({name!r}))
image = pipe({prompt!r}).images[0]
handle.scale = 0.5  # weight of the adapter; 0 is the base model
handle.remove()
```"""
LIMITS = """* The adapter fits only the text encoder that it was trained for; `attach` refuses others that it recognises as different.
* It adds no concepts that the base model lacks, and the base model's biases and terms of use apply.
* The results hold only for the prompts, the base model and the judge that they were measured with."""
NO_LICENCE = "Not specified. Contact the authors before use."


def model_card(
    config: AdapterConfig, metrics: dict | None = None, *, name: str, licence: str | None = None, datasets: list[str] | None = None
) -> str:
    """Writes the card of the adapter `name`, a folder or a name on the hub. metrics: the content of metrics.json.

    licence: of the weights, an identifier of the hub. datasets: names on the hub. Raises ValueError for an invalid licence or name.
    """
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise ValueError(f"the licence {licence!r} is not an identifier of the hub: give one such as mit, apache-2.0 or openrail")
    if wrong := [dataset for dataset in datasets or [] if not _is_hub_name(dataset)]:
        raise ValueError(f"the data set {wrong[0]!r} cannot be a name on the hub: give owner/name")
    base = _about(config).get("base_model")
    head = ModelCardData(
        license=licence or "other",
        license_name=None if licence else "not-stated",
        base_model=base if _is_hub_name(base) else None,
        base_model_relation="adapter" if _is_hub_name(base) else None,
        datasets=datasets or None,
        library_name="sur-adapter",
        pipeline_tag="text-to-image",
        tags=TAGS,
    )
    base_text = escape_markdown(base) if base else "an unknown diffusion model"
    results = _results(metrics or {})
    sections = [
        f"---\n{head.to_yaml()}\n---",
        f"# SUR-adapter for {base_text}",
        DESCRIPTION.format(base=base_text),
        "## Usage",
        USAGE.format(base=str(base) if base else "the model that it was trained for", name=str(name), prompt=_example_prompt(base)),
        *(["## Results", *results] if results else []),
        "## Details",
        _table([("", ""), *adapter_facts(config).items()]),
        "## Limitations",
        LIMITS,
        "## License",
        f"Weights: {licence}." if licence else NO_LICENCE,
    ]
    return "\n\n".join(sections) + "\n"


def adapter_facts(config: AdapterConfig) -> dict[str, str]:
    """Returns the facts about an adapter by name, in the order of display; unknown ones are left out."""
    about, loss, train = _about(config), _dict(_about(config).get("loss")), _dict(_about(config).get("train"))
    weights = {key.removeprefix("w_"): value for key, value in loss.items() if key.startswith("w_")}
    losses = [f"prompt loss {loss.get('prompt')}", *(f"{key} × {value}" for key, value in weights.items())] if weights else []
    names = {"steps": "steps", "batch": "batch size", "batch_size": "batch size", "optimizer": "optimizer", "lr": "lr", "seed": "seed"}
    layers = about.get("layers")
    facts = {
        "base model": about.get("base_model") or "unknown",
        "text encoder": about.get("text_encoder"),
        "second text encoder": about.get("text_encoder_2"),
        "variant": config.variant + (", attention as published" if config.published_attention else ""),
        "width": config.width,
        "pooled width": config.pooled_width or None,
        "depth, heads": f"{config.depth}, {config.heads}",
        "scale": config.strength,
        "LLM": about.get("llm"),
        "LLM layers": ", ".join(map(str, layers)) if isinstance(layers, list) else layers,
        "LLM pooling": about.get("pooling"),
        "LLM width": config.teacher_width or None,
        "losses": ", ".join(losses) or None,
        "training": ", ".join(f"{label} {train[key]}" for key, label in names.items() if key in train) or None,
        "data": about.get("data"),
        "code": about.get("code"),
        "checkpoint": about.get("checkpoint"),
    }
    return {key: one_line(value) for key, value in facts.items() if value is not None}


def one_line(value) -> str:
    """Formats the value as one line of printable text: untrusted text can neither break the line nor move the cursor of a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def escape_markdown(value) -> str:
    """Escapes the value to one line of Markdown that displays it literally."""
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", escape(one_line(value), quote=False))


def _example_prompt(base) -> str:
    """A sentence that the base model can draw: the miniature knows few words."""
    is_miniature = "miniature" in str(base).split("/")
    return "there are three red circles in the picture" if is_miniature else "three white kittens play with a ball of yarn"


def _about(config: AdapterConfig) -> dict:
    return _dict(config.about)


def _is_hub_name(name) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return isinstance(name, str) and "/" in name


def _results(metrics: dict) -> list[str]:
    """Formats a table of accuracies by arm with intervals, and a list of the adapter's effects; empty if nothing was measured."""
    semantic = _dict(metrics.get("semantic"))
    columns = [name for name, arms in semantic.items() if any(_interval(_dict(arms).get(arm)) for arm in ARMS)]
    columns.sort(key=lambda name: name == "overall")  # last; the sort is stable
    rows = [("arm", *columns)]
    for name, arm in ARMS.items():
        cells = [_interval(_dict(semantic[column]).get(name)) or "–" for column in columns]
        rows += [(arm.label, *cells)] if any(cell != "–" for cell in cells) else []
    effects = [
        ("Share of the gap between plain and keyword prompts that the adapter closes: ", semantic.get("gap_closed")),
        ("Change of accuracy on plain prompts: ", semantic.get("difference")),
        ("Change of accuracy on keyword prompts: ", semantic.get("on_complex")),
        ("Change of the CLIP score on plain prompts: ", _dict(metrics.get("clip_score")).get("difference")),
    ]
    lines = [f"* {label}{text}" for label, values in effects if (text := _interval(values))]
    counts = _dict(metrics.get("counts"))
    if all(_is_number(counts.get(key)) for key in ("prompts", "seeds", "pictures")):
        lines.append(f"* {counts['prompts']} prompts, {counts['seeds']} seeds per prompt, {counts['pictures']} images in total")
    regressed = _dict(metrics.get("quality")).get("regressed")
    if _is_number(regressed):
        lines.append(f"* Image quality: {'it got worse' if regressed else 'no metric got worse'}")
    table = ["Share of images that show what the prompt says, on the same seeds and noise, with 95 % intervals:", _table(rows)]
    return [*(table if len(rows) > 1 else []), *(["\n".join(lines)] if lines else [])]


def _interval(values) -> str:
    """Formats a value with its interval, as `0.570 (0.430 to 0.710)`; an empty text if there is none."""
    value, low, high = (_dict(values).get(key) for key in ("value", "low", "high"))
    if not _is_number(value):
        return ""
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if _is_number(low) and _is_number(high) else "")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _dict(value) -> dict:
    return value if isinstance(value, dict) else {}


def _table(rows: list[tuple]) -> str:
    lines = [[escape_markdown(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])
