"""Saves safetensors with an embedded checksum, and verifies it on load."""

import json
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from sur_adapter.io.atomic import atomic_write
from sur_adapter.io.hashing import short_digest


def save_checked(tensors: dict[str, Tensor], file: Path, **metadata) -> None:
    """Writes the tensors with a checksum. metadata: JSON values, stored in the file's header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    manifest = json.dumps({**metadata, "digest": _checksum(tensors, metadata)}, sort_keys=True)
    with atomic_write(file) as part:
        part.write_bytes(save(tensors, {"manifest": manifest}))  # one entry: safetensors writes several in any order


def load_checked(file: Path) -> tuple[dict[str, Tensor], dict]:
    """Loads (tensors, metadata). A file of other software, without a checksum, is loaded as it is, with empty metadata.

    Raises ValueError if the checksum does not match, and SafetensorError if the file cannot be read at all.
    """
    with safe_open(file, "pt") as opened:
        manifest = (opened.metadata() or {}).get("manifest")
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - safe_open is not a mapping
    if manifest is None:
        return tensors, {}
    with suppress(ValueError):
        metadata = json.loads(manifest)
        if metadata.pop("digest", None) == _checksum(tensors, metadata):
            return tensors, metadata
    raise ValueError(f"{file} is corrupt: create or download it again; `python -m stages verify` finds other corrupt files")


def _checksum(tensors: dict[str, Tensor], metadata: dict) -> str:
    """Returns the short digest of the metadata and of each tensor's name, dtype, shape and bytes."""
    chunks = [json.dumps(metadata, sort_keys=True)]
    for name, tensor in sorted(tensors.items()):
        chunks += [f"{name} {tensor.dtype} {tuple(tensor.shape)}\n", tensor.reshape(-1).view(torch.uint8).numpy()]
    return short_digest(*chunks)
