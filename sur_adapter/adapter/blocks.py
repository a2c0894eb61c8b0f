"""The adapter's own network, in two variants (arXiv 2305.05189, section 4).

    z = W (x − μ)        q = h3(z)        k = h2(z)
    A = softmax(q kᵀ / √d)        u = A x + x        (`paper`)        u = A x + x + q        (`sur`)
    o = x + g(u + h1(u))          c' = eta·o + (1 − eta)·x

x, q, c' (B, L, d). g starts at zero, so an untrained adapter is the identity, bit for bit. Attention runs over the tokens of one prompt,
never over the batch. In the paper, q only steers one head of attention over x; in `sur` it is also passed on to the output.

μ and W whiten the tokens of the training data (`whiten`; else z = x): in CLIP's features a few directions hold nearly all the variance, and
what tells one rare word from another lies in the others.

log_weight (B, L): a token that stands for w equal tokens adds log w to its logits in every attention (training/thinning.py).
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from sur_adapter.adapter.config import AdapterConfig


class Whitening(nn.Module):
    """z = W (x − μ), (B, L, d). μ (d,) and W (d, d) are fixed before the training (training/whitening.py) and saved with the weights."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width))

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        fp32 = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
        with fp32:  # W magnifies small differences, and with them the rounding of bf16
            return ((x.float() - self.mean.float()) @ self.matrix.float().T).to(x.dtype)


class PaperBlock(nn.Module):
    """The network as the paper's formula has it."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        d = config.width
        layer = nn.TransformerEncoderLayer(d, config.heads, 4 * d, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.norm = nn.Sequential(Whitening(d), nn.LayerNorm(d)) if config.whiten else nn.LayerNorm(d)
        self.h3 = nn.TransformerEncoder(layer, config.depth, norm=nn.LayerNorm(d), enable_nested_tensor=False)
        self.h2 = nn.Linear(d, d, bias=False)  # a bias adds the same number to every score of a row: softmax removes it
        self.h1 = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.g = nn.Linear(d, d)
        nn.init.zeros_(self.g.weight)
        nn.init.zeros_(self.g.bias)

    def query(self, x: Tensor, log_weight: Tensor | None = None) -> Tensor:
        """Computes q = h3(x), (B, L, d)."""
        return self.h3(self.norm(x), src_key_padding_mask=log_weight)

    def attend(self, x: Tensor, q: Tensor, log_weight: Tensor | None = None) -> Tensor:
        """Computes u = A x + x, (B, L, d)."""
        bias = None if log_weight is None else log_weight[:, None].to(q.dtype)  # (B, 1, L)
        return nn.functional.scaled_dot_product_attention(q, self.h2(self.norm(x)), x, attn_mask=bias) + x

    def adapt(self, x: Tensor, q: Tensor, scale: float, log_weight: Tensor | None = None) -> Tensor:
        """Computes c' from x and q, (B, L, d) each; scale is eta."""
        u = self.attend(x, q, log_weight)
        return x + scale * self.g(u + self.h1(u))


class SURBlock(PaperBlock):
    """The default: the query is also passed on, since what h3 learns can leave the paper's network only as a mixture of the rows of x."""

    def attend(self, x: Tensor, q: Tensor, log_weight: Tensor | None = None) -> Tensor:
        """Computes u = A x + x + q, (B, L, d)."""
        return super().attend(x, q, log_weight) + q


class PooledBlock(nn.Sequential):
    """MLP(p) of p' = p + eta·MLP(p) for SDXL's pooled vector p (B, p). Its last layer starts at zero."""

    def __init__(self, width: int):
        super().__init__(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        nn.init.zeros_(self[-1].weight)
        nn.init.zeros_(self[-1].bias)
