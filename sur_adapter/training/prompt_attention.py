"""The U-Net's cross-attention for training: what its layers put out for sampled queries, with few matrix products.

Folded into the query, the frozen weights need no keys and values of the prompt's tokens. For query q of a head of width e and layer l:

    s = q W_k / √e                              (d,)       once a step
    o = softmax(c s + log w, over tokens)ᵀ c    (d,)       all layers, heads and queries in one product
    Attn_l(q; c) = W_out [W_v o] + b_out        (c_out,)   [ ] concatenates the heads

which is query_bank.CrossAttention, up to rounding. The output is linear in o, so the difference of two prompts is that of their o.
"""

from collections.abc import Callable
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from sur_adapter.features.query_bank import CrossAttention


class PromptAttention:
    """Cross-attention layers with their query banks. All of them have the dtype and width d of the first one."""

    def __init__(self, layers: list[CrossAttention]):
        self.layers, self.dtype = layers, layers[0].q.dtype

    def sample(self, num_queries: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws queries of each layer's bank and folds them: s of all layers, queries and heads, (N, d)."""
        folded, num_queries = [], min(num_queries, *(len(layer.q) for layer in self.layers))
        for layer in self.layers:
            index = torch.randperm(len(layer.q), generator=generator)[:num_queries].to(layer.q.device)
            q = layer.q[index].unflatten(-1, (layer.heads, -1))  # (n, heads, e)
            s = torch.einsum("nhe,hed->nhd", q, layer.to_k.unflatten(0, (layer.heads, -1)))
            folded.append(s.flatten(0, 1) / sqrt(q.shape[-1]))
        return torch.cat(folded).to(self.dtype)

    def attend(self, s: Tensor, embeds: Tensor, log_weight: Tensor | None = None) -> Tensor:
        """Computes o of each prompt: s (N, d), embeds (B, T, d), log_weight (B, T) -> (B, N, d)."""
        embeds = embeds.to(self.dtype)
        logits = F.linear(embeds, s).transpose(1, 2)  # (B, N, T)
        if log_weight is not None:
            logits = logits + log_weight[:, None].to(logits.dtype)
        return logits.softmax(-1).to(embeds.dtype) @ embeds

    def outputs(self, o: Tensor) -> list[Tensor]:
        """Computes Attn_l(q; c) − b_out of each layer: o (B, N, d) -> (B, n, c_out) each, n queries."""
        heads = sum(layer.heads for layer in self.layers)
        n, results = o.shape[1] // heads, []
        for layer, part in zip(self.layers, o.split([n * layer.heads for layer in self.layers], 1), strict=True):
            of_head = part.unflatten(1, (n, layer.heads))  # (B, n, heads, d)
            values = torch.einsum("bnhd,hed->bnhe", of_head, layer.to_v.unflatten(0, (layer.heads, -1)))
            results.append(F.linear(values.flatten(2), layer.to_out))
        return results

    def losses(self, target: Tensor, adapted: Tensor, parts: list[slice], mean: Callable[[Tensor], Tensor] = lambda x: x) -> list[Tensor]:
        """Computes losses.prompt_attention of each part of the prompts, from the o of both: target, adapted (B, N, d)."""
        with torch.no_grad():
            targets = self.outputs(target)
        errors = self.outputs(adapted - target.detach())
        return [self._loss([t[part] for t in targets], [e[part] for e in errors], mean) for part in parts]

    @staticmethod
    def _loss(targets: list[Tensor], errors: list[Tensor], mean: Callable[[Tensor], Tensor]) -> Tensor:
        """Computes mean over l of mean(errors_l²) / Var[targets_l]; (B, n, c_out) each. torch.var takes ten times as long here."""
        with torch.no_grad():
            targets = [target.float() for target in targets]
            centre = mean(torch.cat([target.mean((0, 1)) for target in targets])).split([target.shape[-1] for target in targets])
            variance = mean(torch.stack([(t - c).square().mean() for t, c in zip(targets, centre, strict=True)]))
        squares = torch.stack([error.float().square().mean() for error in errors])
        return (squares / variance.clamp_min(1e-8)).mean()
