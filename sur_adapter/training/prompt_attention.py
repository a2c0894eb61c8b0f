"""The U-Net's cross-attention for training: what its layers put out for sampled queries, with few matrix products.

Folded into the query, the frozen weights need no keys and values of the prompt's tokens. For query q of a head of width e and layer l:

    s = q W_k / √e                              (d,)       once a step
    o = softmax(c s + log w, over tokens)ᵀ c    (d,)       all layers, heads and queries in one product
    Attn_l(q; c) = W_out [W_v o] + b_out        (c_out,)   [ ] concatenates the heads

which is query_bank.CrossAttention, up to rounding. The output is linear in o, so the difference of two prompts is that of their o.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from sur_adapter.features.query_bank import CrossAttention


@dataclass
class LayerGroup:
    """Layers of one shape, whose products are computed together. layers: their numbers."""

    layers: list[int]
    heads: int
    to_v: Tensor  # (l·heads, d, e)
    to_out: Tensor  # (l, heads·e, c_out)

    @classmethod
    def of(cls, numbers: list[int], layers: list[CrossAttention]) -> "LayerGroup":
        heads = layers[0].heads
        to_v = torch.cat([layer.to_v.unflatten(0, (heads, -1)).transpose(1, 2) for layer in layers])
        return cls(numbers, heads, to_v, torch.stack([layer.to_out.T for layer in layers]))

    def outputs(self, o: Tensor) -> Tensor:
        """Computes Attn_l(q; c) − b_out of n queries: o (B, l·n·heads, d) -> (l, B, n, c_out)."""
        batch, count, heads = len(o), len(self.layers), self.heads
        o = o.view(batch, count, -1, heads, o.shape[-1])  # (B, l, n, heads, d)
        n = o.shape[2]
        values = o.permute(1, 3, 0, 2, 4).reshape(count * heads, batch * n, -1) @ self.to_v  # (l·heads, B·n, e)
        values = values.view(count, heads, batch * n, -1).transpose(1, 2).reshape(count, batch * n, -1)  # (l, B·n, heads·e)
        return (values @ self.to_out).view(count, batch, n, -1)


class PromptAttention:
    """Cross-attention layers with their query banks. All of them have the dtype and width d of the first one."""

    def __init__(self, layers: list[CrossAttention]):
        self.layers, self.dtype = layers, layers[0].q.dtype
        numbers: dict[tuple, list[int]] = {}
        for number, layer in enumerate(layers):
            numbers.setdefault((layer.heads, layer.to_v.shape, layer.to_out.shape), []).append(number)
        self.groups = [LayerGroup.of(members, [layers[k] for k in members]) for members in numbers.values()]

    def sample(self, num_queries: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws queries of each layer's bank and folds them: s of all layers, queries and heads, (N, d), in the order of the groups."""
        folded, num_queries = [], min(num_queries, *(len(layer.q) for layer in self.layers))
        for layer in self.layers:
            index = torch.randperm(len(layer.q), generator=generator)[:num_queries].to(layer.q.device)
            q = layer.q[index].unflatten(-1, (layer.heads, -1))  # (n, heads, e)
            s = torch.einsum("nhe,hed->nhd", q, layer.to_k.unflatten(0, (layer.heads, -1)))
            folded.append(s.flatten(0, 1) / sqrt(q.shape[-1]))
        return torch.cat([folded[k] for group in self.groups for k in group.layers]).to(self.dtype)

    def attend(self, s: Tensor, embeds: Tensor, log_weight: Tensor | None = None) -> Tensor:
        """Computes o of each prompt: s (N, d), embeds (B, T, d), log_weight (B, T) -> (B, N, d)."""
        embeds = embeds.to(self.dtype)
        logits = F.linear(embeds, s).transpose(1, 2)  # (B, N, T)
        if log_weight is not None:
            logits = logits + log_weight[:, None].to(logits.dtype)
        return logits.softmax(-1).to(embeds.dtype) @ embeds

    def outputs(self, o: Tensor) -> list[Tensor]:
        """Computes Attn_l(q; c) − b_out of n queries: o (B, N, d) -> (l, B, n, c_out) of each group of layers."""
        n = o.shape[1] // sum(layer.heads for layer in self.layers)
        parts = o.split([n * group.heads * len(group.layers) for group in self.groups], 1)
        return [group.outputs(part) for group, part in zip(self.groups, parts, strict=True)]

    def losses(
        self,
        pairs: Iterable[tuple[Tensor, Tensor]],
        parts: list[slice | Tensor],
        mean: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> list[Tensor]:
        """Computes losses.prompt_attention of each part of the prompts.

        pairs: o of the target and of the adapted features, (b, N, d) each, of all groups of prompts. parts: rows of all prompts, in
        the order of the groups.
        """
        return self.join([self.errors(*pair) for pair in pairs], parts, mean)

    def errors(self, target: Tensor, adapted: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Compares o of a group of prompts, (b, N, d) each. Returns the squared errors of each layer and prompt, (layers, b), and the
        outputs for the target, (l, b, n, c_out) of each group of layers."""
        with torch.no_grad():
            outputs = self.outputs(target)
        squares = [error.float().square().mean((2, 3)) for error in self.outputs(adapted - target.detach())]
        return torch.cat(squares), outputs

    def join(
        self,
        groups: list[tuple[Tensor, list[Tensor]]],
        parts: list[slice | Tensor],
        mean: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> list[Tensor]:
        """Computes the loss of each part of the prompts, as `losses`, from what `errors` returns for all groups."""
        errors, targets = zip(*groups, strict=True)
        all_targets = [torch.cat(members, 1).float() for members in zip(*targets, strict=True)]  # (l, B, n, c_out) of each group of layers
        all_errors = torch.cat(errors, 1)
        return [self._loss([target[:, part] for target in all_targets], all_errors[:, part], mean) for part in parts]

    @staticmethod
    @torch.no_grad()
    def _variance(targets: list[Tensor], mean: Callable[[Tensor], Tensor]) -> Tensor:
        """Computes Var of each layer, (layers,), over prompts, queries and channels. torch.var takes ten times as long here."""
        centre = mean(torch.cat([target.mean((1, 2)).flatten() for target in targets]))
        sizes = [len(target) * target.shape[-1] for target in targets]
        centres = [c.view(len(t), 1, 1, -1) for c, t in zip(centre.split(sizes), targets, strict=True)]
        return mean(torch.cat([(t - c).square().mean((1, 2, 3)) for t, c in zip(targets, centres, strict=True)]))

    @classmethod
    def _loss(cls, targets: list[Tensor], errors: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
        """Computes mean over l of mean(errors_l) / Var[targets_l]: targets (l, B, n, c_out) of each group, errors (layers, B)."""
        return (errors.mean(1) / cls._variance(targets, mean).clamp_min(1e-8)).mean()
