"""Weights in a safetensors file that knows the digest of its numbers: a flipped bit is found before anybody reckons with it."""

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as packed
from torch import Tensor

from sur_adapter.io.atomic import atomic_write


def save(tensors: dict[str, Tensor], file: Path, **about) -> None:
    """about: what else the file tells, as JSON takes it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    manifest = json.dumps({**about, "digest": _digest(tensors, about)}, sort_keys=True)
    with atomic_write(file) as part:
        part.write_bytes(packed(tensors, {"manifest": manifest}))  # one entry: safetensors writes several in any order


def load(file: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, what the file tells). One that others wrote, which tells nothing, is taken as it is.

    Raises ValueError where a number is not the one that was written, SafetensorError where the file cannot be read at all.
    """
    with safe_open(file, "pt") as opened:
        told = (opened.metadata() or {}).get("manifest")
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    if told is None:
        return tensors, {}
    with suppress(ValueError):
        about = json.loads(told)
        if about.pop("digest", None) == _digest(tensors, about):
            return tensors, about
    raise ValueError(f"{file} is not what was written: make or fetch it anew; `python -m stages verify` says what else is spoilt")


def _digest(tensors: dict[str, Tensor], about: dict) -> str:
    """Sixteen hex digits of names, kinds, shapes and numbers, and of what is told of them."""
    total = sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()[:16]
