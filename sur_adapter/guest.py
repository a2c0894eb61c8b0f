"""A guest in any diffusers pipeline: it enters by `attach`, and leaves by `remove` without a trace.

Every Stable Diffusion pipeline turns words into features in its method `encode_prompt`. The guest stands behind that
method and adapts what it returns for the positive prompt; the negative prompt and the unconditional branch stay as
the base model knows them. SDXL's has two text encoders, whose features stand side by side, and returns pooled vectors as well:

    SD 1.x, 2.x   (positive, negative)                               [B, L, d]
    SDXL          (positive, negative, pooled, negative pooled)      [B, L, d₁ + d₂], [B, p]
"""

from inspect import signature

import torch
from torch import Tensor

from sur_adapter.adapter import SURAdapter
from sur_adapter.fingerprint import fingerprint, same

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")  # as diffusers names them, and `about` their marks


class Handle:
    """What `attach` returns: `strength` may be set at any time, `remove()` gives the pipeline back as it was."""

    def __init__(self, pipe, adapter: SURAdapter, strength: float):
        self.pipe, self.adapter, self.strength = pipe, adapter, strength
        self._own = pipe.encode_prompt
        pipe.encode_prompt = self._encode_prompt

    def _encode_prompt(self, *args, **kwargs):
        positive, *rest = self._own(*args, **kwargs)
        given = signature(self._own).bind_partial(*args, **kwargs).arguments
        if self.strength and given.get("prompt_embeds") is None:  # features that the caller made are the caller's own
            positive = self._adapt(self.adapter, positive)
            if len(rest) == 3 and given.get("pooled_prompt_embeds") is None:
                rest[1] = self._adapt(self.adapter.pool, rest[1])
        return positive, *rest

    @torch.no_grad()
    def _adapt(self, how, x: Tensor) -> Tensor:
        """[B, L, d] by the adapter, or [B, p] by its pool; in the adapter's own type, and given back in the pipeline's."""
        self.adapter.to(x.device)
        own = next(self.adapter.parameters()).dtype
        return how(x.to(own), self.strength).to(x.dtype)

    def remove(self) -> None:
        """Leave. A second call does nothing."""
        self.pipe.__dict__.pop("encode_prompt", None)


def attach(pipe, adapter: SURAdapter, strength: float | None = None) -> Handle:
    """Adapt every plain prompt given to `pipe` from now on. strength: eta, the adapter's own unless given; 0 is the base model.

    Raises ValueError, and changes nothing, if the adapter was trained for other text encoders.
    """
    _refuse_strangers(pipe, adapter)
    if "encode_prompt" in pipe.__dict__:
        raise ValueError("an adapter is attached to this pipeline already: call remove() on its handle first")
    adapter.eval()
    return Handle(pipe, adapter, adapter.config.strength if strength is None else strength)


def _refuse_strangers(pipe, adapter: SURAdapter) -> None:
    """Of other text encoders than the adapter's. Width and marks are compared, whatever type the pipeline was loaded in."""
    config, about = adapter.config, adapter.config.about
    trained_for = about.get("base_model", "another model")
    found = getattr(pipe, "name_or_path", "") or "this pipeline"
    encoders = {name: encoder for name in ENCODERS if (encoder := getattr(pipe, name, None)) is not None}
    if not encoders or not hasattr(pipe, "encode_prompt"):
        raise ValueError(f"{found} was loaded without a text encoder, so there is no prompt to adapt: load it whole")
    width = sum(encoder.config.hidden_size for encoder in encoders.values())
    if width != config.width:
        raise ValueError(
            f"the adapter was trained for {trained_for} with text features {config.width} wide, but those of {found} are {width} "
            f"wide: load {trained_for}, or train an adapter for {found}"
        )
    pooled = encoders["text_encoder_2"].config.projection_dim if "text_encoder_2" in encoders else 0
    if config.pooled_width not in (0, pooled):
        raise ValueError(
            f"the adapter was trained for {trained_for} with pooled vectors {config.pooled_width} wide, which {found} has not: "
            f"load {trained_for}, or train an adapter for {found}"
        )
    for name, encoder in encoders.items():
        if about.get(name) and not same(about[name], fingerprint(encoder)):
            raise ValueError(
                f"the adapter was trained for the text encoder of {trained_for}, and {found} has another: load {trained_for}, or train anew"
            )
