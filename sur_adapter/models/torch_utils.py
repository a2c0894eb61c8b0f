"""Device, dtype and memory helpers."""

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import torch

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # of x86 and ARM, in torch.cpu.get_capabilities
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # by their names in params.yaml


def resolve_device(name: str = "auto") -> str:
    """Names the device of torch; "auto" is the GPU if there is one, else the CPU."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def torch_dtype(precision: str) -> torch.dtype:
    """Returns the dtype of a precision of params.yaml. Raises ValueError for anything but fp32, bf16 and fp16."""
    if precision not in DTYPES:
        raise ValueError(f"params.yaml: precision is {precision!r}: choose fp32 or bf16 (or fp16, for an old GPU)")
    return DTYPES[precision]


def has_bf16(device: str) -> bool:
    """Whether the device computes bf16 products itself. Other CPUs emulate them, 3 to 50 times slower than fp32.

    oneDNN's own answer does not tell: it is true for every CPU with AVX512, whether it has the instructions or emulates them.
    """
    if torch.device(device).type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return torch.backends.mkldnn.is_available() and any(capabilities.get(name) for name in BF16_INSTRUCTIONS)
    return True


def compute_dtype(device: str, precision: str) -> torch.dtype:
    """Returns the dtype of matrix products: that of `precision`, but fp32 for a CPU that would emulate bf16."""
    dtype = torch_dtype(precision)
    return torch.float32 if dtype is torch.bfloat16 and not has_bf16(device) else dtype


def autocast(device: str, precision: str, share_casts: bool = True) -> AbstractContextManager:
    """Runs matrix products in `compute_dtype`; weights, and operations that need more range, stay fp32.

    share_casts: whether a weight is cast once for all its products; for threads with graphs of their own it must not be.
    """
    dtype = compute_dtype(device, precision)
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype is not torch.float32, cache_enabled=share_casts)


@contextmanager
def single_thread() -> Iterator[None]:
    """Computes each operation of torch on a CPU in one thread, so that sums have the same last bits on every number of cores. A decorator
    too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the system.

    Returned blocks are faulted in again page by page, which takes a fifth of a training step on a CPU (measured by
    `python -m experiments.benchmarks.train`). With another C library nothing changes.
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**25)  # the largest value that glibc accepts
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(arena_max, 1)  # other threads too: glibc returns the memory of their own arenas whatever the threshold
