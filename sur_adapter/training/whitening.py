"""Fixes the whitening of an adapter's input from the features that it is trained on."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sur_adapter.adapter.blocks import Whitening
from sur_adapter.features.store import FeatureSplit
from sur_adapter.models.torch_utils import single_thread

MAX_ROWS = 4096  # of each split
CHUNK = 256  # rows read at once
FLOOR = 1e-3  # of the mean variance: what varies less is hardly magnified further


def sample_tokens(splits: Iterable[FeatureSplit]) -> Iterator[Tensor]:
    """Yields features of real tokens, (n, d): of both prompts of at most MAX_ROWS rows of each split, evenly spaced."""
    for split in splits:
        index = torch.linspace(0, len(split) - 1, min(len(split), MAX_ROWS)).long()
        names = [name for name in ("simple", "complex", "simple_length", "complex_length") if name in split.names]
        for rows in index.split(CHUNK):
            columns = split.rows(rows.numpy(), names)
            for name in ("simple", "complex"):
                tokens = columns[name]  # (n, L, d)
                length = columns.get(f"{name}_length")
                if length is not None:
                    tokens = tokens[torch.arange(tokens.shape[1]) < length.reshape(-1, 1)]
                yield tokens.reshape(-1, tokens.shape[-1])


@torch.no_grad()
@single_thread()
def fit_whitening(whitening: Whitening, tokens: Iterable[Tensor]) -> None:
    """Sets μ to the mean of the tokens and W = V (Λ + ε)^−½ Vᵀ, of their covariance V Λ Vᵀ, with ε = FLOOR · mean(Λ).

    tokens: batches (n, d). W is symmetric, so z stays as near to x as whitened features can.
    """
    count, total, products = 0, 0.0, 0.0
    for batch in tokens:
        batch = batch.double()
        count, total, products = count + len(batch), total + batch.sum(0), products + batch.T @ batch
    mean = total / count
    variances, directions = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    variances = variances.clamp(min=0)
    scales = (variances + FLOOR * variances.mean()).clamp(min=1e-12).rsqrt()
    whitening.mean.copy_(mean)
    whitening.matrix.copy_((directions * scales) @ directions.T)
