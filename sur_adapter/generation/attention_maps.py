"""Which words a picture looks at: the share of the U-Net's cross-attention that each token of its prompt gets.

    a_i = mean over steps, layers, heads and pixels of softmax(q kᵀ / √e)_i        i = 1 … L, the shares sum to 1

It is a hint, no measure: the beginning and the padding take most of it, whatever the picture shows, and by the time
that the U-Net looks, what a word means has spread over its neighbours.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


class Looks:
    """What was seen so far of pictures drawn one at a time: `shares()` [L]."""

    def __init__(self):
        self._total, self._count = 0.0, 0

    def see(self, attention, q: Tensor, k: Tensor) -> None:
        """One look of one layer. q [B, h·w, inner], k [B, L, inner]; of the batch the last, which is the positive prompt."""
        q, k = (x[-1].float().unflatten(-1, (attention.heads, -1)).transpose(0, 1) for x in (q, k))  # (heads, h·w or L, e)
        shares = (q @ k.transpose(-1, -2) * attention.scale).softmax(-1)  # (heads, h·w, L)
        self._total = self._total + shares.mean((0, 1)).double().cpu()
        self._count += 1

    def shares(self) -> Tensor:
        """[L], which sums to 1. ValueError where nothing was drawn."""
        if not self._count:
            raise ValueError("nothing was drawn while the attention was watched: draw a picture inside `watched`")
        return self._total / self._count


@contextmanager
def watched(unet) -> Iterator[Looks]:
    """What the U-Net's cross-attention looks at while a picture is drawn inside. It sees and changes nothing, and leaves no trace."""
    looks, hooks = Looks(), []
    for name, layer in unet.named_modules():
        if name.endswith("attn2"):
            hooks += _hooks(looks, layer)
    try:
        yield looks
    finally:
        for hook in hooks:
            hook.remove()


def words(tokenizer, prompt: str, shares: Tensor) -> list[tuple[str, float]]:
    """The prompt's words as it writes them, and what share of the attention each got: the sum of its tokens'.

    What the text encoder cuts off has no share and is not there; beginning, end and padding are what is missing from 1.
    """
    encoded = tokenizer(prompt, truncation=True, max_length=len(shares), return_offsets_mapping=True)
    found: dict[int, list] = {}
    for index, (start, end), share in zip(encoded.word_ids(), encoded.offset_mapping, shares.tolist(), strict=False):
        if index is not None:
            first = found.setdefault(index, [start, end, 0.0])
            first[1], first[2] = end, first[2] + share
    return [(prompt[start:end], share) for start, end, share in found.values()]


def _hooks(looks: Looks, layer) -> list:
    """A layer makes its queries before its keys; both are remembered only until they have met."""
    asked = []
    return [
        layer.to_q.register_forward_hook(lambda _module, _inputs, q: asked.append(q)),
        layer.to_k.register_forward_hook(lambda _module, _inputs, k: looks.see(layer, asked.pop(), k)),
    ]
