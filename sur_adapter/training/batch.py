"""The tensors of one training batch."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class TrainingBatch:
    """Cached features, one row per pair. A tensor is None if the cache, the base model or the loss does not have it.

    Text rows have the same fields: simple is the sentence, complex the LLM's answer to it, teacher the hidden states of the answer.
    """

    simple: Tensor  # (B, L, d) text features of the simple prompt
    complex: Tensor  # (B, L, d) text features of the complex prompt
    teacher: Tensor | None  # (B, d_llm) LLM hidden state of the simple prompt, or (B, T, d_llm) per token, zero where there is no token
    latents: Tensor | None = None  # (B, 2, 4, h, w): mean and log-variance of the VAE's posterior
    simple_pooled: Tensor | None = None  # (B, p): SDXL's pooled vector
    complex_pooled: Tensor | None = None  # (B, p)
    simple_length: Tensor | None = None  # (B,): tokens without padding
    complex_length: Tensor | None = None  # (B,)
    time_ids: Tensor | None = None  # (B, 6): size and crop of the image, SDXL's micro-conditions

    def __len__(self) -> int:
        return len(self.simple)

    def rows(self, index: Tensor, device: str) -> "TrainingBatch":
        """Selects rows, as fp32 on the device."""
        return TrainingBatch(*(None if t is None else t[index] for t in vars(self).values())).to(device)

    def to(self, device: str) -> "TrainingBatch":
        """Moves it to the device as fp32. To a GPU the tensors travel in their stored type, from pinned memory."""
        cuda = torch.device(device).type == "cuda"

        def move(tensor: Tensor) -> Tensor:
            return (tensor.pin_memory() if cuda else tensor).to(device, non_blocking=cuda).float()

        return TrainingBatch(*(None if tensor is None else move(tensor) for tensor in vars(self).values()))

    def same_bucket(self, index: Tensor) -> Tensor:
        """Returns the given rows: all latents have one shape, so any rows can share a batch."""
        return index


def joined(batches: list[TrainingBatch], field: str) -> Tensor | None:
    """Concatenates a field of batches; None if one of them does not have it."""
    values = [getattr(batch, field) for batch in batches]
    if any(value is None for value in values):
        return None
    return values[0] if len(values) == 1 else torch.cat(values)
