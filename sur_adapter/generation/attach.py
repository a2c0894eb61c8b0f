"""Attaches an adapter to a diffusers pipeline.

Every Stable Diffusion pipeline encodes prompts in its method `encode_prompt`. An attached adapter replaces that method on this one
pipeline object, calls the original, and adapts what it returns for the positive prompt. The negative prompt and the unconditional branch
stay as in the base model. What `encode_prompt` returns:

    SD 1.x, 2.x   (positive, negative)                               (B, L, d)
    SDXL          (positive, negative, pooled, negative pooled)      (B, L, d₁ + d₂), (B, p)

Nothing else of the pipeline changes, so text-to-image, image-to-image, inpainting, ControlNet, LoRA, textual inversion, offloading and a
compiled U-Net work as before. The adapter moves to the device of the embeddings and stays there. `from_pipe` makes a new pipeline without
the adapter: attach it there again.

Without `attach`, adapt the embeddings yourself. Embeddings given as `prompt_embeds` are never adapted:

    positive, negative = pipe.encode_prompt(prompt, device=device, num_images_per_prompt=1, do_classifier_free_guidance=True)
    pipe(prompt_embeds=adapter(positive, scale=0.5), negative_prompt_embeds=negative)

SDXL also takes `adapter.pool(pooled, scale=0.5)` as its pooled_prompt_embeds.
"""

from inspect import signature
from math import isfinite
from numbers import Real
from weakref import ref

import torch
from torch import Tensor

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.models.fingerprint import fingerprint, same_encoder

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")  # components of a pipeline; also the keys of their marks in `about`
OUTPUTS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")  # of encode_prompt, in order


class Handle:
    """Controls an attached adapter. `scale` and `negative` may be set at any time and take effect at the next prompt.

    `strength` is another name for `scale`. `remove()`, or the end of a `with attach(...):` block, restores the pipeline.
    """

    def __init__(self, pipe, adapter: SURAdapter, scale: float, negative: bool):
        self.pipe, self.adapter, self.scale, self.negative = pipe, adapter, scale, negative
        self.previous_encode_prompt = vars(pipe).get("encode_prompt")  # one that the user set on the object; remove() restores it
        self._checked_encoders = _encoder_refs(pipe)
        pipe.encode_prompt = self._encode_prompt

    @property
    def scale(self) -> float:
        """eta, the weight of the adapter: 0 is the base model, 1 the whole adapter. Setting it raises ValueError if it is not finite."""
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        if not isinstance(value, Real) or not isfinite(value):
            raise ValueError(f"scale is {value!r}: give a number, 0 for the base model, 1 for the whole adapter")
        self._scale = value

    @property
    def strength(self) -> float:
        return self.scale

    @strength.setter
    def strength(self, value: float) -> None:
        self.scale = value

    def _encode_prompt(self, *args, **kwargs):
        own = type(self.pipe).encode_prompt.__get__(self.pipe)
        outputs = (self.previous_encode_prompt or own)(*args, **kwargs)
        if not self.scale:
            return outputs
        arguments = signature(own).bind_partial(*args, **kwargs).arguments
        return tuple(self._adapt(name, x, arguments) for name, x in zip(OUTPUTS, outputs, strict=False))

    @torch.no_grad()
    def _adapt(self, name: str, x: Tensor | None, arguments: dict) -> Tensor | None:
        """Adapts one output of encode_prompt, (B, L, d) or pooled (B, p), in the adapter's dtype; the result has the dtype of `x`."""
        pooled, negative = "pooled" in name, name.startswith("negative")
        from_caller = arguments.get(name) is not None
        if x is None or from_caller or (negative and not self.negative) or (pooled and self.adapter.pooled is None):
            return x
        self._check_exchanged_encoders()
        self.adapter.to(x.device)
        network = self.adapter.pool if pooled else self.adapter
        adapted = network(x.to(next(self.adapter.parameters()).dtype), self.scale).to(x.dtype)
        if not negative:
            return adapted
        mask = has_text(arguments, len(x)).to(x.device)
        return torch.where(mask.view(-1, *[1] * (x.ndim - 1)), adapted, x)

    def _check_exchanged_encoders(self) -> None:
        if _encoder_refs(self.pipe) != self._checked_encoders:
            check_compatible(self.pipe, self.adapter)
            self._checked_encoders = _encoder_refs(self.pipe)

    def remove(self) -> None:
        """Restores the pipeline. A second call does nothing."""
        if vars(self.pipe).get("encode_prompt") != self._encode_prompt:
            return
        del self.pipe.encode_prompt
        if self.previous_encode_prompt is not None:
            self.pipe.encode_prompt = self.previous_encode_prompt

    def __getstate__(self) -> dict:
        return vars(self) | {"_checked_encoders": {}}  # a copied pipeline has text encoders of its own, which are checked again

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *_) -> None:
        self.remove()


def attach(pipe, adapter: SURAdapter, scale: float | None = None, negative: bool = False, *, strength: float | None = None) -> Handle:
    """Adapts each prompt given to `pipe` from now on.

    scale: eta; by default the adapter's own. 0 is the base model, bit for bit. strength: another name for `scale`.
    negative: adapt negative prompts too. The empty negative prompt is never adapted: guidance leads away from it, and no adapter was
    trained on it.

    Raises ValueError, and leaves the pipeline as it is, if the adapter was trained for other text encoders or the pipeline has an adapter
    already. The next prompt raises it too if a text encoder was exchanged.
    """
    if scale is not None and strength is not None:
        raise ValueError(f"scale is {scale} and strength {strength}, but they are two names of one setting: give only scale")
    if isinstance(getattr(vars(pipe).get("encode_prompt"), "__self__", None), Handle):
        raise ValueError("an adapter is attached to this pipeline already: call remove() on its handle first")
    check_compatible(pipe, adapter)
    scale = strength if scale is None else scale
    handle = Handle(pipe, adapter, adapter.config.strength if scale is None else scale, negative)
    adapter.eval()
    return handle


def _text_encoders(pipe) -> dict:
    return {name: encoder for name in TEXT_ENCODERS if (encoder := getattr(pipe, name, None)) is not None}


def _encoder_refs(pipe) -> dict[str, ref]:
    """Weak references to the text encoders: they may be freed, and a later object at the same address is not taken for one of them."""
    return {name: ref(encoder) for name, encoder in _text_encoders(pipe).items()}


def has_text(arguments: dict, rows: int) -> Tensor:
    """Marks the rows of the negative embeddings that come from a text that is not blank, bool (rows,).

    arguments: of encode_prompt. rows: prompts × num_images_per_prompt. SDXL may have two texts for a row; either counts.
    """
    texts = [arguments.get(name) for name in ("negative_prompt", "negative_prompt_2")]
    texts = [[text] if isinstance(text, str) else text for text in texts if text]
    prompts = rows // arguments.get("num_images_per_prompt", 1)
    per_prompt = zip(*(text * (prompts // len(text)) for text in texts), strict=True)
    mask = [any(text.strip() for text in row) for row in per_prompt]
    return torch.tensor(mask or [False] * prompts).repeat_interleave(rows // prompts)


def check_compatible(pipe, adapter: SURAdapter) -> None:
    """Raises ValueError if the adapter was trained for other text encoders: widths and marks are compared, in any dtype of the pipeline."""
    config, about = adapter.config, adapter.config.about
    base_model = about.get("base_model", "another model")
    model = getattr(pipe, "name_or_path", "") or "this pipeline"
    encoders = _text_encoders(pipe)
    if not hasattr(type(pipe), "encode_prompt") or "prompt" not in signature(type(pipe).encode_prompt).parameters:
        raise ValueError(
            f"{type(pipe).__name__} encodes its prompts in a way of its own, so no adapter can be attached: use another pipeline, or give "
            "prompt_embeds that you adapted yourself"
        )
    if not encoders:
        raise ValueError(f"{model} was loaded without a text encoder, so there is no prompt to adapt: load all of its components")
    width = sum(encoder.config.hidden_size for encoder in encoders.values())
    if width != config.width:
        raise ValueError(
            f"the adapter was trained for {base_model} with text features of width {config.width}, but those of {model} have width "
            f"{width}: load {base_model}, or train an adapter for {model}"
        )
    pooled = encoders["text_encoder_2"].config.projection_dim if "text_encoder_2" in encoders else 0
    if config.pooled_width not in (0, pooled):
        raise ValueError(
            f"the adapter was trained for {base_model} with pooled embeddings of width {config.pooled_width}, but those of {model} have "
            f"width {pooled}: load {base_model}, or train an adapter for {model}"
        )
    for name, encoder in encoders.items():
        if about.get(name) and not same_encoder(about[name], fingerprint(encoder)):
            raise ValueError(
                f"the adapter was trained for the text encoder of {base_model}, but {model} has another one: load {base_model}, or "
                f"train an adapter for {model}"
            )
