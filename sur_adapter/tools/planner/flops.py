"""Counts operations and peak memory of a model call without running it, on tensors of the meta device.

with torch.device("meta"):
    unet = UNet2DConditionModel()
measure_cost(lambda: unet(meta_tensor(2, 4, 64, 64), meta_tensor(2), meta_tensor(2, 77, 1280)))      # Cost(flops=..., peak_bytes=...)
"""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


@dataclass(frozen=True)
class Cost:
    """flops: multiplications and additions, as torch counts them. peak_bytes: of the tensors that the call creates, when most are alive."""

    flops: float
    peak_bytes: int


def meta_tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def token_ids(batch_size: int, length: int) -> Tensor:
    """Creates token ids without values, (B, T)."""
    return meta_tensor(batch_size, length, dtype=torch.long)


def measure_cost(call: Callable[[], object], backward: bool = False) -> Cost:
    """Returns the cost of a call whose tensors are all on the meta device.

    backward: also count the backward pass of its result. Without it, attention is counted as one fused kernel that stores no weight matrix.
    """
    memory, attention = PeakMemory(), nullcontext() if backward else FusedAttention()
    with torch.set_grad_enabled(backward), FlopCounterMode(display=False) as counter, memory, attention:
        result = call()
        if backward:
            result.backward()
    return Cost(counter.get_total_flops() + getattr(attention, "flops", 0), memory.peak)


def num_weights(*modules: nn.Module) -> int:
    """Counts the parameters of modules; buffers are negligible."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


class PeakMemory(TorchDispatchMode):
    """Tracks the bytes of tensors that operations create, until each is freed. Tensors that existed before are not counted."""

    def __init__(self):
        super().__init__()
        self.current = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self._track((args, kwargs), counted=False)
        result = function(*args, **(kwargs or {}))
        self._track(result, counted=True)
        return result

    def _track(self, tree, counted: bool) -> None:
        for tensor in (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                size = storage.nbytes() if counted else 0
                self.known.add(storage._cdata)
                self.current += size
                self.peak = max(self.peak, self.current)
                weakref.finalize(storage, self._free, storage._cdata, size)

    def _free(self, pointer: int, size: int) -> None:
        self.known.discard(pointer)
        self.current -= size


class FusedAttention(TorchFunctionMode):
    """Counts attention as a kernel that stores only its result. On the meta device torch would decompose it."""

    flops = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        q, k, v = args[:3] if len(args) > 2 else (kwargs["query"], kwargs["key"], kwargs["value"])  # (B, h, L, e)
        self.flops += sdpa_flop_count(q.shape, (*q.shape[:2], *k.shape[2:]), (*q.shape[:2], *v.shape[2:]))  # heads may share k and v
        return q.new_empty((*q.shape[:-1], v.shape[-1]))
