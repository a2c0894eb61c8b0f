"""The bank of queries on disk: for each cross-attention layer what it was asked, and its frozen weights (loss.CrossAttention).

`queries.safetensors` holds `<layer>.q` [count, h·e], `.to_k`, `.to_v` [h·e, d], `.to_out` [c, h·e], `.bias` [c], fp16.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sur_adapter.loss import CrossAttention

PARTS = ("q", "to_k", "to_v", "to_out", "bias")


def write(layers: dict[str, CrossAttention], folder: Path, model: str | None = None) -> None:
    """model: whose layers they are."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{part}": getattr(layer, part).detach().half().cpu().contiguous() for name, layer in layers.items() for part in PARTS
    }
    manifest = {"model": model, "heads": {name: layer.heads for name, layer in layers.items()}}
    about = {"manifest": json.dumps(manifest, sort_keys=True)}  # one entry: safetensors writes several in any order
    save_file(tensors, folder / "queries.safetensors", about)


def read(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32, model: str | None = None) -> list[CrossAttention]:
    """The layers of a folder, ready to be asked; dtype is what they reckon in.

    FileNotFoundError where there are none, ValueError where they are another model's than `model`.
    """
    file = folder / "queries.safetensors"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: loss.prompt `attention` needs it; run `dvc repro` to record it")
    with safe_open(file, "pt") as opened:
        manifest = json.loads(opened.metadata()["manifest"])
    if model and manifest["model"] not in (model, None):
        raise ValueError(f"{file} was recorded from {manifest['model']!r}, but {model!r} is asked for: it is stale; run `dvc repro`")
    tensors = {k: v.to(device, dtype) for k, v in load_file(file).items()}
    return [CrossAttention(h, *(tensors[f"{name}.{part}"] for part in PARTS)) for name, h in sorted(manifest["heads"].items())]
