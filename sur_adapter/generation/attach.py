"""A guest in any diffusers pipeline: it enters by `attach`, and leaves by `remove` without a trace.

Every Stable Diffusion pipeline turns words into features in its method `encode_prompt`. The guest stands behind that
method and adapts what it returns for the positive prompt; the negative prompt and the unconditional branch stay as
the base model knows them. SDXL's has two text encoders, whose features stand side by side, and returns pooled vectors as well:

    SD 1.x, 2.x   (positive, negative)                               [B, L, d]
    SDXL          (positive, negative, pooled, negative pooled)      [B, L, d₁ + d₂], [B, p]

Nothing else of the pipeline is touched, so text-to-image, image-to-image, inpainting and ControlNet, LoRA, textual inversion,
offloading and compiled U-Nets go on as they were. The adapter goes to the device that the features are on, and stays there.
A pipeline that `from_pipe` makes of another is a new one, without the guest: it takes the same adapter by an `attach` of its own.

Who makes the features by hand needs no guest. What is given as `prompt_embeds` is never adapted, so:

    positive, negative = pipe.encode_prompt(prompt, device=device, num_images_per_prompt=1, do_classifier_free_guidance=True)
    pipe(prompt_embeds=adapter(positive, strength=0.5), negative_prompt_embeds=negative)

SDXL takes `adapter.pool(pooled, strength=0.5)` as its pooled_prompt_embeds as well.
"""

from inspect import signature
from math import isfinite
from numbers import Real
from weakref import ref

import torch
from torch import Tensor

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.models.fingerprint import fingerprint, same

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")  # as diffusers names them, and `about` their marks
RETURNED = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")  # in this order


class Handle:
    """What `attach` returns. `strength` and `negative` may be set at any time and hold from the next prompt on; `remove()`, or the
    end of a `with attach(…):`, gives the pipeline back as it was."""

    def __init__(self, pipe, adapter: SURAdapter, strength: float, negative: bool):
        self.pipe, self.adapter, self.strength, self.negative = pipe, adapter, strength, negative
        self._callers = vars(pipe).get("encode_prompt")  # another's of its own, in place of its class's: it is put back
        self._known = _marks(pipe)
        pipe.encode_prompt = self._encode_prompt

    @property
    def strength(self) -> float:
        return self._strength

    @strength.setter
    def strength(self, eta: float) -> None:
        if not isinstance(eta, Real) or not isfinite(eta):
            raise ValueError(f"strength is {eta!r}: give a number, 0 for the base model, 1 for the whole adapter")
        self._strength = eta

    def _encode_prompt(self, *args, **kwargs):
        own = type(self.pipe).encode_prompt.__get__(self.pipe)
        found = (self._callers or own)(*args, **kwargs)
        if not self.strength:
            return found
        given = signature(own).bind_partial(*args, **kwargs).arguments
        return tuple(self._adapted(name, x, given) for name, x in zip(RETURNED, found, strict=False))

    @torch.no_grad()
    def _adapted(self, name: str, x: Tensor | None, given: dict) -> Tensor | None:
        """[B, L, d] by the adapter, or [B, p] by its pool; in the adapter's own type, and given back in the pipeline's."""
        pooled, negative = "pooled" in name, name.startswith("negative")
        made_by_hand = given.get(name) is not None  # and so the caller's own
        if x is None or made_by_hand or (negative and not self.negative) or (pooled and self.adapter.pooled is None):
            return x
        self._refuse_swapped()
        self.adapter.to(x.device)
        how = self.adapter.pool if pooled else self.adapter
        adapted = how(x.to(next(self.adapter.parameters()).dtype), self.strength).to(x.dtype)
        if negative:
            worded = _worded(given, len(x)).to(x.device)
            return torch.where(worded.view(-1, *[1] * (x.ndim - 1)), adapted, x)
        return adapted

    def _refuse_swapped(self) -> None:
        if _marks(self.pipe) != self._known:
            _refuse_strangers(self.pipe, self.adapter)
            self._known = _marks(self.pipe)

    def remove(self) -> None:
        """Leave. A second call does nothing."""
        if vars(self.pipe).get("encode_prompt") != self._encode_prompt:
            return
        del self.pipe.encode_prompt
        if self._callers is not None:
            self.pipe.encode_prompt = self._callers

    def __getstate__(self) -> dict:
        return vars(self) | {"_known": {}}  # a copy's text encoders are others, which it looks at by itself

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *_) -> None:
        self.remove()


def attach(pipe, adapter: SURAdapter, strength: float | None = None, negative: bool = False) -> Handle:
    """Adapt every plain prompt given to `pipe` from now on.

    strength: eta, the adapter's own unless given; 0 is the base model, bit for bit.
    negative: adapt the words of a negative prompt as well. The unconditional branch, where nothing is said, is never adapted:
        it is what guidance leads away from, and no adapter was trained on it.

    Raises ValueError, and changes nothing, if the adapter was trained for other text encoders, or if the pipeline has a guest already;
    so does the next prompt after a text encoder was exchanged for another.
    """
    if isinstance(getattr(vars(pipe).get("encode_prompt"), "__self__", None), Handle):
        raise ValueError("an adapter is attached to this pipeline already: call remove() on its handle first")
    _refuse_strangers(pipe, adapter)
    handle = Handle(pipe, adapter, adapter.config.strength if strength is None else strength, negative)
    adapter.eval()
    return handle


def _encoders(pipe) -> dict:
    return {name: encoder for name in ENCODERS if (encoder := getattr(pipe, name, None)) is not None}


def _marks(pipe) -> dict[str, ref]:
    """Which objects the text encoders are, without a hold on them: who lets one go gets its memory back, and no other is taken for it."""
    return {name: ref(encoder) for name, encoder in _encoders(pipe).items()}


def _worded(given: dict, rows: int) -> Tensor:
    """Which rows of the negative features have words behind them, [B·n] of n pictures a prompt: SDXL's may have two texts a row."""
    texts = [given.get(name) for name in ("negative_prompt", "negative_prompt_2")]
    texts = [[text] if isinstance(text, str) else text for text in texts if text]
    prompts = rows // given.get("num_images_per_prompt", 1)
    said = [any(words.strip() for words in row) for row in zip(*(text * (prompts // len(text)) for text in texts), strict=True)]
    return torch.tensor(said or [False] * prompts).repeat_interleave(rows // prompts)


def _refuse_strangers(pipe, adapter: SURAdapter) -> None:
    """Of other text encoders than the adapter's. Width and marks are compared, whatever type the pipeline was loaded in."""
    config, about = adapter.config, adapter.config.about
    trained_for = about.get("base_model", "another model")
    found = getattr(pipe, "name_or_path", "") or "this pipeline"
    encoders = _encoders(pipe)
    if not hasattr(type(pipe), "encode_prompt") or "prompt" not in signature(type(pipe).encode_prompt).parameters:
        raise ValueError(
            f"{type(pipe).__name__} encodes its prompts in a way of its own, where no adapter can enter: take another pipeline, "
            "or give prompt_embeds that the adapter made"
        )
    if not encoders:
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
