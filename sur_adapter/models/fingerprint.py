"""Which text encoder an adapter was trained for, as a mark that survives rounding: `fine.coarse.coarse`.

fine is a digest of the position embeddings and the last norm as fp16: fp32 and fp16 copies of one model agree in it. A copy
in bf16 has lost those digits and has no fine digest; it is told by the coarse ones, of the same tensors as bf16: rounded at
once, and by way of fp16, which is not the same number for one value in some sixteen, since a tie may be made on the way.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sur_adapter.io.hashing import short_digest

TOLD_BY = ("position_embedding.weight", "final_layer_norm.weight")


@torch.no_grad()
def fingerprint(text_encoder: nn.Module) -> str:
    """The mark of a text encoder of transformers, in whatever type and wherever it was loaded. Take that of an adapter from fp32
    or fp16 weights: one of bf16 weights cannot know a copy in fp16 again, since their digits are lost on both ways.

    Raises ValueError where it has neither position embeddings nor a last norm.
    """
    state = _state(text_encoder)
    told = [state[key].cpu() for key in sorted(state) if key.endswith(TOLD_BY)]
    if not told:
        raise ValueError(
            f"{type(text_encoder).__name__} has no {' and no '.join(TOLD_BY)}: an adapter needs a text encoder of the CLIP kind"
        )
    halves = [t.half() for t in told]
    fine = "" if any(t.dtype == torch.bfloat16 for t in told) else _digest(halves)
    return f"{fine}.{_digest(t.bfloat16() for t in told)}.{_digest(t.bfloat16() for t in halves)}"


def same(mark: str, other: str) -> bool:
    """Whether two marks can be those of one text encoder: by the finest digest that both have; True where they share none to compare."""
    (fine, *coarse), (other_fine, *other_coarse) = mark.split("."), other.split(".")
    if fine and other_fine:
        return fine == other_fine
    return not coarse or not other_coarse or not set(coarse).isdisjoint(other_coarse)


def _digest(tensors: Iterable[Tensor]) -> str:
    """Sixteen hex digits of the bits of 16-bit tensors."""
    return short_digest(*(tensor.contiguous().view(torch.int16).numpy() for tensor in tensors))


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    if any(t.is_meta for t in state.values()):  # offloaded piece by piece: what is kept elsewhere is asked for there
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        state = get_state_dict_offloaded_model(model)
    return state
