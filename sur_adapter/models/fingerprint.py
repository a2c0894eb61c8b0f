"""Fingerprints of text encoders that survive rounding: `fine.coarse.coarse`.

An adapter stores the fingerprint of the text encoder that it was trained for. `fine` is a hash of the position embeddings and the last
norm in fp16: fp32 and fp16 copies of a model agree in it. A bf16 copy has lost those digits and has no fine hash; it is recognised by the
two coarse hashes, of the same tensors in bf16: rounded directly, and rounded through fp16, which differs in about one value of sixteen.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sur_adapter.io.hashing import short_digest

HASHED_TENSORS = ("position_embedding.weight", "final_layer_norm.weight")


@torch.no_grad()
def fingerprint(text_encoder: nn.Module) -> str:
    """Computes the fingerprint of a text encoder of transformers, in any dtype and on any device.

    For an adapter, use fp32 or fp16 weights: a fingerprint of bf16 weights does not match fp16 copies. Raises ValueError if the encoder has
    neither position embeddings nor a last norm.
    """
    state = _state_dict(text_encoder)
    tensors = [state[key].cpu() for key in sorted(state) if key.endswith(HASHED_TENSORS)]
    if not tensors:
        raise ValueError(
            f"{type(text_encoder).__name__} has no {' and no '.join(HASHED_TENSORS)}: an adapter needs a text encoder of the CLIP kind"
        )
    halves = [tensor.half() for tensor in tensors]
    fine = "" if any(tensor.dtype == torch.bfloat16 for tensor in tensors) else _hash(halves)
    return f"{fine}.{_hash(tensor.bfloat16() for tensor in tensors)}.{_hash(half.bfloat16() for half in halves)}"


def same_encoder(first: str, second: str) -> bool:
    """Compares two fingerprints by the finest kind of hash that both have; True if they have none in common."""
    (fine, *coarse), (other_fine, *other_coarse) = first.split("."), second.split(".")
    if fine and other_fine:
        return fine == other_fine
    return not coarse or not other_coarse or not set(coarse).isdisjoint(other_coarse)


def _hash(tensors: Iterable[Tensor]) -> str:
    """Returns the short digest of the bits of 16-bit tensors."""
    return short_digest(*(tensor.contiguous().view(torch.int16).numpy().tobytes() for tensor in tensors))


def _state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict, also of a model whose weights accelerate has offloaded."""
    state = model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        state = get_state_dict_offloaded_model(model)
    return state
