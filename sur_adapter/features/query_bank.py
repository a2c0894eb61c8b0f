"""The query bank: queries of the U-Net's cross-attention layers, with the frozen weights of each layer.

For layer l with queries q_l, the prompt loss compares the outputs of the layer for two prompts:

    Attn_l(q; c) = softmax(q K_l(c)ᵀ / √e) V_l(c) W_outᵀ + b_out,      K_l(c) = c W_kᵀ,   V_l(c) = c W_vᵀ,   per head of width e

`queries.safetensors` holds `<layer>.q` (n, heads·e), `.to_k` and `.to_v` (heads·e, d), `.to_out` (c, heads·e) and `.bias` (c,), fp16.
"""

from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from sur_adapter.io.checksummed_safetensors import load_checked, save_checked

TENSORS = ("q", "to_k", "to_v", "to_out", "bias")


@dataclass
class CrossAttention:
    """One cross-attention layer: its frozen weights and a bank of n queries."""

    heads: int
    q: Tensor  # (n, heads·e)
    to_k: Tensor  # (heads·e, d)
    to_v: Tensor  # (heads·e, d)
    to_out: Tensor  # (c, heads·e)
    bias: Tensor  # (c,)

    @classmethod
    def of_layer(cls, layer: nn.Module, q: Tensor) -> "CrossAttention":
        """Takes the weights of a diffusers `Attention`, with queries q (n, heads·e)."""
        out = layer.to_out[0]
        return cls(layer.heads, q, layer.to_k.weight, layer.to_v.weight, out.weight, out.bias)

    def __call__(self, q: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Computes Attn_l(q; c) of each prompt: q (n, heads·e), prompt_embeds c (B, L, d) -> (B, n, c_out)."""
        batch = len(prompt_embeds)
        kv = (F.linear(prompt_embeds, weight) for weight in (self.to_k, self.to_v))  # (B, L, heads·e)
        k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in kv)  # (B, heads, L, e)
        q = q.unflatten(-1, (self.heads, -1)).transpose(0, 1).expand(batch, -1, -1, -1)  # (B, heads, n, e)
        weights = (q @ k.transpose(-1, -2) / sqrt(k.shape[-1])).softmax(-1)  # (B, heads, n, L)
        return F.linear((weights @ v).transpose(1, 2).flatten(2), self.to_out, self.bias)  # (B, n, c_out)


def save_query_bank(layers: dict[str, CrossAttention], folder: Path, model: str | None = None) -> None:
    """Writes the layers as `queries.safetensors`. model: the diffusion model they belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.{tensor}": getattr(layer, tensor).half() for name, layer in layers.items() for tensor in TENSORS}
    save_checked(tensors, folder / "queries.safetensors", model=model, heads={name: layer.heads for name, layer in layers.items()})


def load_query_bank(
    folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32, model: str | None = None
) -> list[CrossAttention]:
    """Loads the layers, sorted by name, in `dtype`.

    Raises FileNotFoundError if there is no bank, ValueError if it is corrupt or belongs to another model than `model`.
    """
    file = folder / "queries.safetensors"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: loss.prompt `attention` needs it; run `dvc repro` to record it")
    try:
        tensors, manifest = load_checked(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is cut short or broken ({error}): remove its folder and run `dvc repro` again") from error
    if model and manifest["model"] not in (model, None):
        raise ValueError(f"{file} was recorded from {manifest['model']!r}, but this run needs {model!r}: it is stale; run `dvc repro`")
    tensors = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
    heads = sorted(manifest["heads"].items())
    return [CrossAttention(count, *(tensors[f"{name}.{tensor}"] for tensor in TENSORS)) for name, count in heads]
