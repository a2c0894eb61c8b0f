"""Device, dtype and memory helpers."""

import ctypes
from contextlib import AbstractContextManager, suppress

import torch


def device(name: str = "auto") -> str:
    """ "auto" is the GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def dtype(precision: str) -> torch.dtype:
    """What products are made in. ValueError for anything but fp32, bf16 and fp16."""
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in kinds:
        raise ValueError(f"params.yaml: precision is {precision!r}: choose fp32 or bf16 (or fp16, for an old GPU)")
    return kinds[precision]


def autocast(where: str, precision: str) -> AbstractContextManager:
    """Products in that precision; weights, sums and what needs range stay as they are."""
    kind = dtype(precision)
    return torch.autocast(torch.device(where).type, kind, enabled=kind is not torch.float32)


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the system.

    Returned blocks are faulted in again page by page, which takes a fifth of a training step on a CPU (measured by
    `python -m experiments.benchmarks.train`). With another C library nothing changes.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**25)  # the largest value that glibc accepts
        libc.mallopt(trim_threshold, 2**31 - 1)
