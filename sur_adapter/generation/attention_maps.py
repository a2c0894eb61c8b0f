"""Measures how much of the U-Net's cross-attention each word of the prompt gets.

    a_i = mean over steps, layers, heads and pixels of softmax(q kᵀ / √e)_i        i = 1 … L, sum a_i = 1

The shares are a hint and not an exact measure: the start token and the padding get most of the attention, whatever the image shows, and
the text encoder has already mixed the meaning of a word into its neighbours.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from sur_adapter.models.stable_diffusion import cross_attention_layers


class AttentionRecorder:
    """Averages the cross-attention of images that are generated one at a time."""

    def __init__(self):
        self._total, self._count = 0.0, 0

    def record(self, attention, q: Tensor, k: Tensor) -> None:
        """Adds one call of one layer: q (B, h·w, inner), k (B, L, inner). The last row of the batch is the positive prompt."""
        q, k = (x[-1].float().unflatten(-1, (attention.heads, -1)).transpose(0, 1) for x in (q, k))  # (heads, h·w or L, e)
        weights = (q @ k.transpose(-1, -2) * attention.scale).softmax(-1)  # (heads, h·w, L)
        self._total = self._total + weights.mean((0, 1)).double().cpu()
        self._count += 1

    def shares(self) -> Tensor:
        """Returns the mean attention per token, (L,), which sums to 1. Raises ValueError if nothing was recorded."""
        if not self._count:
            raise ValueError("no attention was recorded: generate an image inside `with record_attention(unet)`")
        return self._total / self._count


@contextmanager
def record_attention(unet) -> Iterator[AttentionRecorder]:
    """Records the cross-attention of `unet` inside the block. The images do not change; the hooks are removed at the end."""
    recorder, hooks = AttentionRecorder(), []
    for layer in cross_attention_layers(unet).values():
        hooks += _add_hooks(recorder, layer)
    try:
        yield recorder
    finally:
        for hook in hooks:
            hook.remove()


def word_attention(tokenizer, prompt: str, shares: Tensor) -> list[tuple[str, float]]:
    """Returns (word, share) for each word of the prompt, as it is written there; the share is the sum over the word's tokens.

    shares: (L,). Words that the text encoder truncates are left out; the start token, the end token and the padding get the rest.
    """
    encoded = tokenizer(prompt, truncation=True, max_length=len(shares), return_offsets_mapping=True)
    spans: dict[int, list] = {}  # number of the word -> [start, end, share]
    for word, (start, end), share in zip(encoded.word_ids(), encoded.offset_mapping, shares.tolist(), strict=False):
        if word is not None:
            span = spans.setdefault(word, [start, end, 0.0])
            span[1], span[2] = end, span[2] + share
    return [(prompt[start:end], share) for start, end, share in spans.values()]


def _add_hooks(recorder: AttentionRecorder, layer) -> list:
    """Hooks the projections of a layer, which computes its queries before its keys; a query is kept until its key arrives."""
    queries = []
    return [
        layer.to_q.register_forward_hook(lambda _module, _inputs, q: queries.append(q)),
        layer.to_k.register_forward_hook(lambda _module, _inputs, k: recorder.record(layer, queries.pop(), k)),
    ]
