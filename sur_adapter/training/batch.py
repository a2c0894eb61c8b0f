"""The tensors of one training batch."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class TrainingBatch:
    """What is cached of one split; rows agree. What no term asks for, and what the model does not have, is None."""

    simple: Tensor  # (N, L, d)
    complex: Tensor  # (N, L, d)
    teacher: Tensor  # (N, d_llm), or (N, T, d_llm), nought where there is no token
    latents: Tensor | None = None  # (N, 2, 4, h, w): mean and log-variance
    simple_pooled: Tensor | None = None  # (N, p): SDXL's one vector a prompt
    complex_pooled: Tensor | None = None  # (N, p)
    simple_length: Tensor | None = None  # (N,): tokens before the padding
    complex_length: Tensor | None = None  # (N,)
    frame: Tensor | None = None  # (N, 6): how the picture was cut, SDXL's time ids

    def __len__(self) -> int:
        return len(self.simple)

    def rows(self, index: Tensor, device: str) -> "TrainingBatch":
        """Those rows, fp32, on the device."""
        return TrainingBatch(*(None if t is None else t[index] for t in vars(self).values())).to(device)

    def to(self, device: str) -> "TrainingBatch":
        """fp32, on the device. To a GPU they travel as they are cached, from memory that it can fetch by itself."""
        far = torch.device(device).type == "cuda"
        held = vars(self).values()
        return TrainingBatch(*(None if t is None else (t.pin_memory() if far else t).to(device, non_blocking=far).float() for t in held))

    def together(self, index: Tensor) -> Tensor:
        """Rows that can share a batch: any."""
        return index
