"""A training that may be killed: all that its next step depends on, kept as finished work (work.py), and the best so far.

No state of the random generator is among it: every step seeds it anew, by the seed and its own number.
"""

from hashlib import sha256
from io import BytesIO

import torch
from torch import nn

from sur_adapter.io.work_cache import WorkCache

KEY = "state.pt"


class BestWeights:
    """The least validation loss so far, and the weights that had it."""

    def __init__(self):
        self.loss, self.since, self.weights = float("inf"), 0, None

    def look(self, loss: float, model: nn.Module | None) -> None:
        """model: whose weights are kept, where they are asked for."""
        if loss < self.loss:
            self.loss, self.since = loss, 0
            self.weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()} if model else None
        else:
            self.since += 1  # looks without a better one

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


def keep(work: WorkCache, parts: dict, **numbers) -> None:
    """parts: name -> anything with a state_dict."""
    buffer = BytesIO()
    torch.save(numbers | {"parts": {name: part.state_dict() for name, part in parts.items()}}, buffer)
    work.set(KEY, sha256(buffer.getbuffer()).digest() + buffer.getvalue())


def resume(work: WorkCache | None, parts: dict, processes: int = 1) -> dict:
    """The numbers that were kept last, every part as it was then; {} where nothing was, or where the disk has spoilt it.

    One process reads for all of them.
    """
    held = [unsealed(work.get(KEY)) if work else None]
    if processes > 1:
        torch.distributed.broadcast_object_list(held)
    if held[0] is None:
        return {}
    state = torch.load(BytesIO(held[0]), map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    return state


def unsealed(data: bytes | None) -> bytes | None:
    """Training anew is dear, going on with a flipped bit is dearer: torch itself looks at no checksum."""
    return data[32:] if data and sha256(data[32:]).digest() == data[:32] else None
