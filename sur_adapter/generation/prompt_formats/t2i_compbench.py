"""T2I-CompBench's lists, one prompt per line: color_val.txt, numeracy_val.txt, non_spatial_val.txt, …. Huang et al., arXiv 2307.06350; MIT.

The category of all prompts of a file is the beginning of the file's name: `color` is our `color`, `numeracy` our `counting`, `non_spatial`
our `action`; `shape`, `texture`, `spatial`, `3d_spatial` and `complex` keep their names. The lists have no questions or answers, so images
are compared by CLIP score only.
"""

from pathlib import Path

from sur_adapter.generation.prompt_formats import with_ids

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


def matches(file_name: str, text: str) -> bool:
    return _list_name(file_name) is not None and bool(text.strip()) and "\t" not in text and text.lstrip()[0] not in "{["


def read_rows(file: Path, text: str) -> list[dict]:
    """Returns rows with id, category and prompt."""
    name = _list_name(file.name)
    prompts = (line.strip() for line in text.split("\n"))
    return with_ids(f"t2i-{name.replace('_', '-')}", [{"category": CATEGORIES[name], "prompt": prompt} for prompt in prompts if prompt])


def _list_name(file_name: str) -> str | None:
    """Returns the name of the list that a file name such as color_val.txt belongs to."""
    name = file_name.lower()
    return next((known for known in CATEGORIES if name.startswith(f"{known}_") and name.endswith(".txt")), None)
