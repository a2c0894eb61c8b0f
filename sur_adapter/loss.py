"""The three terms, named as in the paper (arXiv 2305.05189):

    L = w_diffusion · ‖ε − UNet(z_t, t, c')‖²  +  w_prompt · D_prompt(complex, adapted)  +  w_llm · KL(FCN(teacher) ‖ query)

D_prompt is `kl`, the paper's, or `attention`: alignment where the U-Net looks.
"""

from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor


def diffusion(noise: Tensor, prediction: Tensor) -> Tensor:
    """‖ε − ε̂‖², mean over everything."""
    return F.mse_loss(prediction, noise)


def kl(target: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(target) ‖ softmax(student)) over the last dimension, mean over the others. [..., d] each."""
    return F.kl_div(student.log_softmax(-1), target.log_softmax(-1), reduction="none", log_target=True).sum(-1).mean()


def prompt_kl(complex: Tensor, adapted: Tensor) -> Tensor:
    """The paper's: token i of one prompt against token i of the other."""
    return kl(complex, adapted)


@dataclass
class CrossAttention:
    """What is frozen of one cross-attention layer, and a bank of queries it was asked: q [n, h·e]."""

    heads: int
    q: Tensor
    to_k: Tensor  # (h·e, d)
    to_v: Tensor  # (h·e, d)
    to_out: Tensor  # (c, h·e)
    bias: Tensor  # (c,)

    def __call__(self, q: Tensor, words: Tensor) -> Tensor:
        """Attn_l(q; words): [n, h·e], [B, L, d] -> [B, n, c]."""
        batch = len(words)
        k, v = (F.linear(words, w).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.to_k, self.to_v))  # (B, h, L, e)
        asked = q.unflatten(-1, (self.heads, -1)).transpose(0, 1).expand(batch, -1, -1, -1)  # (B, h, n, e)
        weights = (asked @ k.transpose(-1, -2) / sqrt(k.shape[-1])).softmax(-1)  # (B, h, n, L)
        return F.linear((weights @ v).transpose(1, 2).flatten(2), self.to_out, self.bias)


def prompt_attention(layers: list[CrossAttention], complex: Tensor, adapted: Tensor, sample: int = 32) -> Tensor:
    """mean over l of  ‖Attn_l(q; adapted) − Attn_l(q; complex)‖² / Var[Attn_l(q; complex)],  q drawn from each layer's bank.

    It does not care about the order of words, padding, or tags that the U-Net ignores. complex, adapted [B, L, d].
    """
    complex, adapted = (words.to(layers[0].q.dtype) for words in (complex, adapted))  # once, not in every layer
    terms = []
    for layer in layers:
        q = layer.q[torch.randperm(len(layer.q))[:sample].to(layer.q.device)]  # (n, h·e)
        with torch.no_grad():
            wanted = layer(q, complex).float()  # (B, n, c)
            spread = (wanted - wanted.mean((0, 1))).square().mean()  # Var; torch.var takes ten times as long here
        terms.append((layer(q, adapted) - wanted).square().mean() / spread.clamp_min(1e-8))
    return torch.stack(terms).mean()


def llm(projected: Tensor, query: Tensor) -> Tensor:
    """KL(FCN(teacher) ‖ mean over tokens of query), both normalised so that neither can win by becoming flat.

    projected [B, d], one vector a prompt; query [B, L, d]. The mean, since a query that must be the same vector at every token,
    as in the paper, has no room left for what sets the tokens apart.
    """
    d = query.shape[-1:]
    return kl(F.layer_norm(projected, d), F.layer_norm(query.mean(1), d))
