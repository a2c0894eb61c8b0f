"""The bank of queries on disk: for each cross-attention layer what it was asked, and its frozen weights (loss.CrossAttention).

`queries.safetensors` holds `<layer>.q` [count, h·e], `.to_k`, `.to_v` [h·e, d], `.to_out` [c, h·e], `.bias` [c], fp16.
"""

from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from sur_adapter.io.checksummed_safetensors import load_checked, save_checked

PARTS = ("q", "to_k", "to_v", "to_out", "bias")


@dataclass
class CrossAttention:
    """What is frozen of one cross-attention layer, and a bank of queries it was asked: q [n, h·e]."""

    heads: int
    q: Tensor
    to_k: Tensor  # (h·e, d)
    to_v: Tensor  # (h·e, d)
    to_out: Tensor  # (c, h·e)
    bias: Tensor  # (c,)

    def __call__(self, q: Tensor, words: Tensor) -> Tensor:
        """Attn_l(q; words): [n, h·e], [B, L, d] -> [B, n, c]."""
        batch = len(words)
        k, v = (F.linear(words, w).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.to_k, self.to_v))  # (B, h, L, e)
        asked = q.unflatten(-1, (self.heads, -1)).transpose(0, 1).expand(batch, -1, -1, -1)  # (B, h, n, e)
        weights = (asked @ k.transpose(-1, -2) / sqrt(k.shape[-1])).softmax(-1)  # (B, h, n, L)
        return F.linear((weights @ v).transpose(1, 2).flatten(2), self.to_out, self.bias)


def write(layers: dict[str, CrossAttention], folder: Path, model: str | None = None) -> None:
    """model: whose layers they are."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.{part}": getattr(layer, part).half() for name, layer in layers.items() for part in PARTS}
    save_checked(tensors, folder / "queries.safetensors", model=model, heads={name: layer.heads for name, layer in layers.items()})


def read(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32, model: str | None = None) -> list[CrossAttention]:
    """The layers of a folder, ready to be asked; dtype is what they reckon in.

    FileNotFoundError where there are none, ValueError where they are spoilt or another model's than `model`.
    """
    file = folder / "queries.safetensors"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: loss.prompt `attention` needs it; run `dvc repro` to record it")
    try:
        tensors, manifest = load_checked(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is cut short or broken ({error}): remove its folder and run `dvc repro` again") from error
    if model and manifest["model"] not in (model, None):
        raise ValueError(f"{file} was recorded from {manifest['model']!r}, but {model!r} is asked for: it is stale; run `dvc repro`")
    tensors = {k: v.to(device, dtype) for k, v in tensors.items()}
    return [CrossAttention(h, *(tensors[f"{name}.{part}"] for part in PARTS)) for name, h in sorted(manifest["heads"].items())]
