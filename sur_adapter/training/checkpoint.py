"""Checkpoints, from which a killed training continues, and the best weights so far.

A checkpoint holds no state of a random generator: every step has its own, seeded by train.seed and the step's number.
"""

from hashlib import sha256
from io import BytesIO

import torch
from torch import nn

from sur_adapter.io.work_cache import WorkCache

KEY = "state.pt"  # in the work cache


class BestWeights:
    """The lowest validation loss so far, and on request the weights that had it."""

    def __init__(self):
        self.loss, self.evals_since_best, self.weights = float("inf"), 0, None

    def update(self, loss: float, model: nn.Module | None) -> None:
        """Records a validation loss. model: whose weights are copied if the loss is the lowest so far; None copies none."""
        if loss < self.loss:
            self.loss, self.evals_since_best = loss, 0
            self.weights = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()} if model else None
        else:
            self.evals_since_best += 1

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


def save_checkpoint(cache: WorkCache, stateful: dict, **values) -> None:
    """Saves values and the state of objects, name -> anything with a state_dict, with a checksum."""
    buffer = BytesIO()
    torch.save(values | {"stateful": {name: item.state_dict() for name, item in stateful.items()}}, buffer)
    cache.set(KEY, sha256(buffer.getbuffer()).digest() + buffer.getvalue())


def load_checkpoint(cache: WorkCache | None, stateful: dict, num_processes: int = 1) -> dict:
    """Restores the objects from the last checkpoint and returns its values; {} if there is none, or if it is corrupt.

    Only the first process reads, and sends what it read to the others.
    """
    data = [verified(cache.get(KEY)) if cache else None]
    if num_processes > 1:
        torch.distributed.broadcast_object_list(data)
    if data[0] is None:
        return {}
    state = torch.load(BytesIO(data[0]), map_location="cpu", weights_only=True)
    for name, item in stateful.items():
        item.load_state_dict(state["stateful"][name])
    return state


def verified(data: bytes | None) -> bytes | None:
    """Verifies the checksum in front of the data; None if the checkpoint is corrupt. torch.load itself verifies none."""
    return data[32:] if data and sha256(data[32:]).digest() == data[:32] else None
