"""The bank of queries on disk: for each cross-attention layer what it was asked, and its frozen weights (loss.CrossAttention).

`queries.safetensors` holds `<layer>.q` [count, h·e], `.to_k`, `.to_v` [h·e, d], `.to_out` [c, h·e], `.bias` [c], fp16.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError

from sur_adapter import sealed
from sur_adapter.loss import CrossAttention

PARTS = ("q", "to_k", "to_v", "to_out", "bias")


def write(layers: dict[str, CrossAttention], folder: Path, model: str | None = None) -> None:
    """model: whose layers they are."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.{part}": getattr(layer, part).half() for name, layer in layers.items() for part in PARTS}
    sealed.save(tensors, folder / "queries.safetensors", model=model, heads={name: layer.heads for name, layer in layers.items()})


def read(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32, model: str | None = None) -> list[CrossAttention]:
    """The layers of a folder, ready to be asked; dtype is what they reckon in.

    FileNotFoundError where there are none, ValueError where they are spoilt or another model's than `model`.
    """
    file = folder / "queries.safetensors"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: loss.prompt `attention` needs it; run `dvc repro` to record it")
    try:
        tensors, manifest = sealed.load(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is cut short or broken ({error}): remove its folder and run `dvc repro` again") from error
    if model and manifest["model"] not in (model, None):
        raise ValueError(f"{file} was recorded from {manifest['model']!r}, but {model!r} is asked for: it is stale; run `dvc repro`")
    tensors = {k: v.to(device, dtype) for k, v in tensors.items()}
    return [CrossAttention(h, *(tensors[f"{name}.{part}"] for part in PARTS)) for name, h in sorted(manifest["heads"].items())]
