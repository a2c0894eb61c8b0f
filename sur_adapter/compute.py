"""Where tensors are reckoned with, and how finely."""

from contextlib import AbstractContextManager

import torch


def device(name: str = "auto") -> str:
    """ "auto" is the GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def dtype(precision: str) -> torch.dtype:
    """What products are made in. ValueError for anything but fp32 and bf16."""
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if precision not in kinds:
        raise ValueError(f"params.yaml: precision is {precision!r}: choose fp32 or bf16")
    return kinds[precision]


def autocast(where: str, precision: str) -> AbstractContextManager:
    """Products in that precision; weights, sums and what needs range stay as they are."""
    return torch.autocast(torch.device(where).type, torch.bfloat16, enabled=dtype(precision) is torch.bfloat16)
