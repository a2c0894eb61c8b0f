"""What a report was made of: models and their licences, settings, and where the data came from. No clock and no commit.

A commit's name cannot stand in a file that the commit holds, and the same figures must give the same file: the page says in words
where it is found instead.
"""

import re
from html import unescape
from os.path import isdir, isfile
from pathlib import Path

from huggingface_hub import metadata_load

from sur_adapter.reporting.html import said, table, tame

COMMIT = (
    "The commit is not named here, since the same figures must give the same file: it is the one that holds the dvc.lock whose entry "
    "for this file has its hash; that dvc.lock names every file behind it by its hash, too."
)


def colophon(config: dict, params: dict, data: str) -> str:
    """config: of the adapter; params: sections of params.yaml; data: the data card, Markdown. What is empty is not shown."""
    models = dict(_models({"adapter": config, **params}))
    parts = [f"<p>{COMMIT}</p>"]
    if models:
        rows = [[said(name), said(where), said(licence(name))] for name, where in models.items()]
        parts.append(f"<h3>Models and their licences</h3>{table('Models', ['model', 'named in', 'licence'], rows)}")
    leaves = [[said(key), said(value)] for key, value in _leaves({"adapter": config, **params})]
    settings = table("Settings", ["key", "value"], leaves)
    parts.append(f"<h3>Settings</h3><details><summary>the adapter's config, and params</summary>{settings}</details>")
    if data:
        parts.append(f"<h3>Data and licences</h3><details><summary>the data card</summary>{card(data)}</details>")
    return "".join(parts)


def licence(model: str) -> str:
    """What the card in a model's folder says; for a model that lies elsewhere, where to look."""
    readme = next((file for folder in (Path(model), Path(model).parent) if isfile(file := folder / "README.md")), None)
    if not isdir(model) or readme is None:
        return "see its model card on the hub"
    try:
        told = (metadata_load(readme) or {}).get("license")
    except Exception:  # a stranger's card can break its reader in any way
        return "its card cannot be read"
    return told if told and isinstance(told, str) else "its card names none"  # a list may hold itself a thousand times over


def _models(tree, key: str = ""):
    """(model, the first key that names it), of every setting that names one."""
    found: dict[str, str] = {}
    for name, value in _leaves(tree):
        last = name.rpartition(".")[2]
        if isinstance(value, str) and "/" in value and last in ("base_model", "llm", "diffusion", "clip", "model", "judge"):
            found.setdefault(value, name)
    return found


def _leaves(tree, prefix: str = ""):
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from _leaves(tree[key], f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), tree


def card(markdown: str) -> str:
    """The data card as HTML: its headings, paragraphs and tables, no other markup."""
    parts, heading = [], "The data"
    for block in re.split(r"\n\s*\n", markdown.strip()):
        if block.startswith("# "):
            continue
        if block.startswith("## "):
            heading = tame(unescape(block[3:]))
            parts.append(f"<h4>{said(heading)}</h4>")
        elif block.startswith("|"):
            head, _, *rows = [_cells(line) for line in block.splitlines()]
            parts.append(table(heading, head, rows))
        else:
            parts.append(f"<p>{said(unescape(block))}</p>")
    return "".join(parts)


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [said(unescape(cell.strip().replace("\\|", "|"))) for cell in cells]
