"""What a report was made from: models with their licences, settings, and the data card. No clock and no commit.

A commit's hash cannot be in a file that the commit contains, and equal results must give equal files: the page says where to find it.
"""

import re
from collections.abc import Iterable, Iterator
from html import unescape
from os.path import isdir, isfile
from pathlib import Path

from huggingface_hub import metadata_load

from sur_adapter.reporting.html import sanitize

MODEL_KEYS = ("base_model", "llm", "diffusion", "clip", "model", "judge")  # last part of the keys that name a model


def provenance(config: dict, settings: dict, data_card: str) -> dict:
    """Returns the variables of templates/sections/provenance.html.

    config: of the adapter; settings: sections of params.yaml; data_card: Markdown.
    """
    licences: dict[str, list[dict]] = {}  # licence -> the models that have it
    for name, key in _models(leaves({"adapter": config, **settings})).items():
        licences.setdefault(licence(name), []).append({"name": name, "key": key})
    card = {True: [], False: []}  # whether a part of the card is about licences -> its blocks
    is_licence = False
    for block in parse_card(data_card) if data_card else ():
        is_licence = "licence" in block["text"].lower() if block["kind"] == "heading" else is_licence
        card[is_licence].append(block)
    return {"licences": licences, "source_licences": card[True], "settings": list(leaves(settings)), "card": card[False]}


def licence(model: str) -> str:
    """Reads the licence in the model card of a folder; for any other model, where to find it."""
    readme = next((file for folder in (Path(model), Path(model).parent) if isfile(file := folder / "README.md")), None)
    if not isdir(model) or readme is None:
        return "see its model card on the hub"
    try:
        name = (metadata_load(readme) or {}).get("license")
    except Exception:  # a card from elsewhere can break its parser in any way
        return "its model card cannot be read"
    return name if name and isinstance(name, str) else "its model card names none"  # a list may contain itself many times


def _models(settings: Iterable[tuple[str, object]]) -> dict[str, str]:
    """Returns model -> the first key that names it."""
    models: dict[str, str] = {}
    for key, value in settings:
        if isinstance(value, str) and "/" in value and key.rpartition(".")[2] in MODEL_KEYS:
            models.setdefault(value, key)
    return models


def leaves(tree: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields (dotted key, value) of nested settings, sorted by key."""
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from leaves(tree[key], f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), tree


def parse_card(markdown: str) -> Iterator[dict]:
    """Yields the headings, paragraphs and tables of a data card, without its title: {"kind": "heading" | "paragraph" | "table", …}."""
    heading = "The data"
    for block in re.split(r"\n\s*\n", markdown.strip()):
        if block.startswith("# "):
            continue
        if block.startswith("## "):
            heading = unescape(block[3:])
            yield {"kind": "heading", "text": heading}
        elif block.startswith("|"):
            head, _, *rows = [_cells(line) for line in block.splitlines()]
            yield {"kind": "table", "caption": sanitize(heading), "head": head, "rows": rows}
        else:
            yield {"kind": "paragraph", "text": unescape(block)}


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [unescape(cell.strip().replace("\\|", "|")) for cell in cells]
