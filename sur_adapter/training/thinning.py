"""Leaves out part of the padding in training: padding tokens of one prompt are nearly equal, and every token costs time.

Of a prompt all real tokens are kept, and of its m padding tokens n that are evenly spaced. Each of them stands for w = m / n tokens: it
adds log w to its logits in every softmax over tokens, as w equal tokens would. Which tokens are kept depends on the prompt alone, never on
its batch, so that micro-batches and processes compute what one process does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Prompts:
    """Text features of B prompts, in groups of prompts of similar length."""

    groups: list[tuple[Tensor, Tensor | None]]  # features (b, T, d) and log w (b, T), -inf where there is no token; None: all weigh 1
    lengths: list[Tensor | None]  # (b,): real tokens, of each group
    rows: list[Tensor] | None = None  # (b,): the prompts of each group; None: the groups have the order of the prompts
    order: Tensor | None = None  # (B,): where each prompt is in the concatenated groups; None: in its place

    @property
    def is_thinned(self) -> bool:
        return self.rows is not None

    def split(self, values: Tensor) -> list[Tensor]:
        """Splits values of the prompts, (B, …), into those of each group."""
        return list(values.split([len(x) for x, _ in self.groups])) if self.rows is None else [values[rows] for rows in self.rows]

    def places(self, part: slice) -> slice | Tensor:
        """Returns where some prompts are in the concatenated groups."""
        return part if self.order is None else self.order[part]

    def restore(self, values: list[Tensor]) -> Tensor:
        """Concatenates values of the groups, (b, …) each, in the order of the prompts: (B, …)."""
        joined = values[0] if len(values) == 1 else torch.cat(values)
        return joined if self.order is None else joined.index_select(0, self.order)  # whose backward pass is fast

    def map(self, function: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        """Applies a function to the features and log w of each group: (B, …)."""
        return self.restore([function(*group) for group in self.groups])


def whole(embeds: Tensor, length: Tensor | None = None, parts: list[int] | None = None) -> Prompts:
    """Returns all tokens of the prompts, in one group or in groups of `parts` prompts. embeds (B, L, d), length (B,)."""
    parts = parts or [len(embeds)]
    lengths = [None] * len(parts) if length is None else list(length.split(parts))
    return Prompts([(part, None) for part in embeds.split(parts)], lengths)


def thinned(embeds: Tensor, length: Tensor, padding_tokens: int, group_size: int) -> Prompts:
    """Keeps `padding_tokens` padding tokens of each prompt, sorts the prompts by length, and groups them.

    Groups have `group_size` prompts in the mean and about as many tokens each, so that threads that share them end together.
    embeds (B, L, d), length (B,): real tokens with start and end token.
    """
    order, count = length.argsort(stable=True), -(-len(length) // group_size)
    tokens = length[order].long() + padding_tokens
    number = (tokens.cumsum(0) - tokens) * count // tokens.sum()  # (B,), of the group
    rows = list(order.split(number.bincount(minlength=count).tolist()))
    groups = [thinned_rows(embeds, length, part, padding_tokens) for part in rows]
    return Prompts(groups, [length[part] for part in rows], rows, order.argsort())


def thinned_rows(embeds: Tensor, length: Tensor, rows: Tensor, padding_tokens: int) -> tuple[Tensor, Tensor]:
    """Returns the kept tokens of some prompts, rows (b,): features (b, T, d) and log w (b, T)."""
    position, log_weight = kept_tokens(length[rows], embeds.shape[1], padding_tokens)
    return embeds[rows[:, None], position], log_weight


def kept_tokens(length: Tensor, num_tokens: int, padding_tokens: int) -> tuple[Tensor, Tensor]:
    """Returns the kept positions (B, T) and log w (B, T) of prompts of L = num_tokens tokens. T is the most that one of them keeps."""
    length = length.long().clamp(max=num_tokens)[:, None]  # (B, 1)
    padding = num_tokens - length
    kept = padding.clamp(max=padding_tokens)
    slot = torch.arange(int((length + kept).max()), device=length.device)[None]  # (1, T)
    number = slot - length  # of the padding token, from 0
    spaced = length + (2 * number + 1) * padding // (2 * kept).clamp(min=1)  # the middle of the tokens that it stands for
    position = torch.where(number < 0, slot, spaced).clamp(max=num_tokens - 1)
    log_weight = (padding / kept.clamp(min=1)).log().expand_as(position).masked_fill(number < 0, 0.0)
    return position, log_weight.masked_fill(number >= kept, float("-inf"))
