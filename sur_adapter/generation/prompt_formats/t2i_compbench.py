"""T2I-CompBench's lists, one prompt a line: color_val.txt, numeracy_val.txt, non_spatial_val.txt, …. Huang et al., arXiv 2307.06350; MIT.

Plain sentences do not say what they test, so the file's name does, by its beginning: `color` is our `color`, `numeracy` our `counting`,
`non_spatial` our `action` (who does what with what); `shape`, `texture`, `spatial`, `3d_spatial` and `complex` keep their names.
There are no questions nor answers in these lists: pictures are compared by CLIP score alone.
"""

from pathlib import Path

from sur_adapter.generation.prompt_formats import named

CATEGORIES = {
    "color": "color",
    "numeracy": "counting",
    "non_spatial": "action",
    "shape": "shape",
    "texture": "texture",
    "spatial": "spatial",
    "3d_spatial": "3d_spatial",
    "complex": "complex",
}


def recognises(name: str, text: str) -> bool:
    return _list(name) is not None and bool(text.strip()) and "\t" not in text and text.lstrip()[0] not in "{["


def rows(file: Path, text: str) -> list[dict]:
    """id, category, prompt."""
    which = _list(file.name)
    sentences = (line.strip() for line in text.split("\n"))
    return named(f"t2i-{which.replace('_', '-')}", [{"category": CATEGORIES[which], "prompt": s} for s in sentences if s])


def _list(name: str) -> str | None:
    return next((which for which in CATEGORIES if name.lower().startswith(f"{which}_") and name.lower().endswith(".txt")), None)
