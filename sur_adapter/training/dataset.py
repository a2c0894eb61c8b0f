"""The cached pairs or text rows of one split, read from memory-mapped files."""

import numpy as np
import torch
from torch import Tensor

from sur_adapter.features.store import FeatureSplit
from sur_adapter.training.batch import TrainingBatch

FIELDS = {name: name for name in TrainingBatch.__annotations__} | {"frame": "time_ids"}  # column of the cache -> field of a batch


class FeatureDataset:
    """Has `rows` and `same_bucket` as a TrainingBatch of all rows would have, but holds only the requested rows in memory.

    layers: columns of LLM features, concatenated in this order; none of them reads no LLM features. With cached mirror images there are
    twice as many rows: the second half is the first one, mirrored. Latents of different shapes (aspect buckets) cannot share a batch: see
    `same_bucket`.
    """

    def __init__(self, split: FeatureSplit, layers: list[str]):
        self.split, self.layers = split, layers
        self.mirrored = "latents_flipped" in split.names
        self._columns = [name for name in split.names if name in {*layers, *FIELDS}]
        self._bucket = None  # (N,), or None if all latents have one shape
        if "latents" in split.names and len(split):
            shapes, bucket = np.unique(split.shapes("latents"), axis=0, return_inverse=True)
            self._bucket = torch.from_numpy(bucket.reshape(-1)) if len(shapes) > 1 else None

    def __len__(self) -> int:
        return len(self.split) * (2 if self.mirrored else 1)

    def rows(self, index: Tensor, device: str) -> TrainingBatch:
        """Reads rows, as fp32 on the device."""
        index, mirror = index % max(len(self.split), 1), index >= len(self.split)
        columns = self.split.rows(index.numpy(), self._columns)
        if mirror.any():
            columns["latents"][mirror] = self.split.rows(index[mirror].numpy(), ["latents_flipped"])["latents_flipped"]
        layers = [columns[name] for name in self.layers]
        teacher = torch.cat(layers, -1) if layers else None  # (B, d_llm · layers), or (B, T, d_llm · layers)
        fields = {FIELDS[name]: values for name, values in columns.items() if name in FIELDS}
        return TrainingBatch(**fields, teacher=teacher).to(device)

    def same_bucket(self, index: Tensor) -> Tensor:
        """Replaces each row that is in another bucket than the first row by one of the first row's bucket: such rows can share a batch.

        Which one depends only on the row that it replaces.
        """
        if self._bucket is None:
            return index
        bucket = self._bucket[index % len(self.split)]
        candidates = torch.nonzero(self._bucket == bucket[0])[:, 0]
        return torch.where(bucket == bucket[0], index, candidates[index % len(candidates)])


LOGPROB = "min_logprob"  # column of text rows: least token log-probability of the answer, NaN if no LLM gave it


def keep_sure_answers(split: FeatureSplit, min_logprob: float | None) -> None:
    """Leaves in a split of text rows those whose answer has at least this log-probability, or none. min_logprob: None keeps all rows."""
    if min_logprob is None or LOGPROB not in split.names or not len(split):
        return
    values = split.rows(range(len(split)), [LOGPROB])[LOGPROB].reshape(-1).numpy()  # (N,)
    split.index = split.index[np.isnan(values) | (values >= min_logprob)]
