"""A guest in any diffusers pipeline: it enters by `attach`, and leaves by `remove` without a trace.

Every Stable Diffusion pipeline turns words into features in its method `encode_prompt`. The guest stands behind that
method and adapts what it returns for the positive prompt; the negative prompt and the unconditional branch stay as
the base model knows them.
"""

import torch

from sur_adapter.adapter import SURAdapter, fingerprint


class Handle:
    """What `attach` returns: `strength` may be set at any time, `remove()` gives the pipeline back as it was."""

    def __init__(self, pipe, adapter: SURAdapter, strength: float):
        self.pipe, self.adapter, self.strength = pipe, adapter, strength
        self._own = pipe.encode_prompt
        pipe.encode_prompt = self._encode_prompt

    def _encode_prompt(self, *args, **kwargs):
        positive, *rest = self._own(*args, **kwargs)
        if self.strength and kwargs.get("prompt_embeds") is None:  # features that the caller made are the caller's own
            positive = self._adapt(positive)
        return positive, *rest

    @torch.no_grad()
    def _adapt(self, x: torch.Tensor) -> torch.Tensor:
        adapter = self.adapter.to(x.device)
        return adapter(x.float(), self.strength).to(x.dtype)  # (B, L, d)

    def remove(self) -> None:
        """Leave. A second call does nothing."""
        self.pipe.__dict__.pop("encode_prompt", None)


def attach(pipe, adapter: SURAdapter, strength: float | None = None) -> Handle:
    """Adapt every plain prompt given to `pipe` from now on. strength: eta, the adapter's own unless given; 0 is the base model.

    Raises ValueError, and changes nothing, if the adapter was trained for another text encoder.
    """
    trained_for = adapter.config.about.get("base_model", "another model")
    width, mark = pipe.text_encoder.config.hidden_size, adapter.config.about.get("text_encoder")
    found = getattr(pipe, "name_or_path", "") or "this pipeline"
    if width != adapter.config.width:
        raise ValueError(
            f"the adapter was trained for {trained_for} with text features {adapter.config.width} wide, but those of {found} are {width} "
            f"wide: load {trained_for}, or train an adapter for {found}"
        )
    if mark and pipe.text_encoder.dtype != torch.bfloat16 and fingerprint(pipe.text_encoder) != mark:
        raise ValueError(
            f"the adapter was trained for the text encoder of {trained_for}, and {found} has another: load {trained_for}, or train anew"
        )
    if "encode_prompt" in pipe.__dict__:
        raise ValueError("an adapter is attached to this pipeline already: call remove() on its handle first")
    adapter.eval()
    return Handle(pipe, adapter, adapter.config.strength if strength is None else strength)
