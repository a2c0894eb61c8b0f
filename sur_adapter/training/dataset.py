"""The cached pairs of one split as a training reads them: rows as they are asked for, out of memory maps."""

import numpy as np
import torch
from torch import Tensor

from sur_adapter.features.store import Split
from sur_adapter.training.batch import TrainingBatch


class FeatureDataset:
    """Stands where Features of all rows would: memory holds no more than the rows asked for.

    layers: the columns of the teacher, side by side in this order. Where the mirrored pictures are cached too, there are twice as many
    rows: the second half is the first, mirrored. Latents of several shapes (aspect buckets) cannot share a batch: see `together`.
    """

    def __init__(self, split: Split, layers: list[str]):
        self.split, self.layers = split, layers
        self.mirrored = "latents_flipped" in split.names
        self._names = [name for name in split.names if name in {*layers, *TrainingBatch.__annotations__}]
        self._bucket = None
        if "latents" in split.names and len(split):
            kinds, self._bucket = np.unique(split.shapes("latents"), axis=0, return_inverse=True)
            self._bucket = torch.from_numpy(self._bucket.reshape(-1)) if len(kinds) > 1 else None

    def __len__(self) -> int:
        return len(self.split) * (2 if self.mirrored else 1)

    def rows(self, index: Tensor, device: str) -> TrainingBatch:
        """Those rows, fp32, on the device."""
        index, mirror = index % max(len(self.split), 1), index >= len(self.split)
        held = self.split.rows(index.numpy(), self._names)
        if mirror.any():
            held["latents"][mirror] = self.split.rows(index[mirror].numpy(), ["latents_flipped"])["latents_flipped"]
        teacher = torch.cat([held[name] for name in self.layers], -1)  # (B, d_llm · layers), or (B, T, …)
        words = {name: values for name, values in held.items() if name in TrainingBatch.__annotations__}
        return TrainingBatch(**words, teacher=teacher).to(device)

    def together(self, index: Tensor) -> Tensor:
        """Rows that can share a batch: all of the first one's bucket, each taken for the row that was drawn in its place."""
        if self._bucket is None:
            return index
        bucket = self._bucket[index % len(self.split)]
        alike = torch.nonzero(self._bucket == bucket[0])[:, 0]
        return torch.where(bucket == bucket[0], index, alike[index % len(alike)])
