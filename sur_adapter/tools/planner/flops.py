"""What a call of a model costs, told without running it: operations and memory, on tensors that have a shape and no numbers.

with torch.device("meta"):
    unet = UNet2DConditionModel()
cost(lambda: unet(meta(2, 4, 64, 64), meta(2), meta(2, 77, 1280)))      # Cost(operations=…, held=…)
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
    """operations: products and sums, as torch counts them. held: bytes of what is made on the way, where most of it lives at once."""

    operations: float
    held: int


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def tokens(batch: int, length: int) -> Tensor:
    """Token numbers [B, T]."""
    return meta(batch, length, dtype=torch.long)


def cost(call: Callable[[], object], backward: bool = False) -> Cost:
    """Of a call whose tensors are all on the meta device. Without a way back, attention is one kernel that writes no matrix of weights."""
    held, fused = Held(), nullcontext() if backward else Fused()
    with torch.set_grad_enabled(backward), FlopCounterMode(display=False) as counter, held, fused:
        result = call()
        if backward:
            result.backward()
    return Cost(counter.get_total_flops() + getattr(fused, "operations", 0), held.most)


def weight(*modules: nn.Module, each: int = 4) -> int:
    """Bytes of the weights of modules, at so many a number; buffers are as good as nothing."""
    return each * sum(p.numel() for module in modules for p in module.parameters())


class Held(TorchDispatchMode):
    """Bytes of the tensors that operations make, from each one's making to its end. What was there before is not counted."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self._see((args, kwargs), counted=False)
        result = function(*args, **(kwargs or {}))
        self._see(result, counted=True)
        return result

    def _see(self, tree, counted: bool) -> None:
        for tensor in (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                size = storage.nbytes() if counted else 0
                self.known.add(storage._cdata)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._free, storage._cdata, size)

    def _free(self, name: int, size: int) -> None:
        self.known.discard(name)
        self.now -= size


class Fused(TorchFunctionMode):
    """Attention as a kernel that holds its result alone. On the meta device torch would take it apart."""

    operations = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        q, k, v = args[:3] if len(args) > 2 else (kwargs["query"], kwargs["key"], kwargs["value"])  # (B, h, L, e)
        self.operations += sdpa_flop_count(q.shape, (*q.shape[:2], *k.shape[2:]), (*q.shape[:2], *v.shape[2:]))  # heads may share k and v
        return q.new_empty((*q.shape[:-1], v.shape[-1]))
