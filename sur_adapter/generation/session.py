"""One prompt, drawn without and with the adapter: same seed, same noise, one picture at a time."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from threading import RLock

import torch
from PIL import Image

import sur_adapter.models.stable_diffusion as diffusion
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.data.prompts.cleaning import too_long
from sur_adapter.generation.attach import attach
from sur_adapter.generation.attention_maps import watched, words
from sur_adapter.models.torch_utils import resolve_device

LONGEST = 2000  # characters of a prompt: some 500 tokens, of which a text encoder reads 75
STEPS = 150
STRENGTH = 2.0
GUIDANCE = 30.0
SEEDS = 2**32 - 1  # as many as every other page takes, and a browser's numbers hold


@dataclass
class Comparison:
    """looked: each word of the prompt with the share of attention that it gets without and with the adapter. notes: sentences."""

    plain: Image.Image
    adapted: Image.Image
    looked: list[tuple[str, float, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class ComparisonSession:
    """A pipeline with its guest. It may be asked from several threads: the second waits. model: the pipeline's name."""

    def __init__(self, pipe, adapter: SURAdapter, model: str = ""):
        self.pipe, self.handle, self.model, self._busy = pipe, attach(pipe, adapter), model, RLock()

    @property
    def strength(self) -> float:
        """The adapter's own."""
        return self.handle.adapter.config.strength

    @property
    def guidance(self) -> float:
        """What the pipeline takes when nobody says."""
        return inspect.signature(self.pipe.__call__).parameters["guidance_scale"].default

    def picture(
        self,
        prompt: str,
        negative: str = "",
        *,
        strength: float,
        seed: int = 0,
        steps: int = 20,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
        tell: Callable[[float], None] = lambda done: None,
    ) -> Image.Image:
        """One picture. The noise is what `torch.Generator().manual_seed(seed)` makes on the CPU, so that a script draws the same, with and
        without the adapter and on every device.

        size: width and height in pixels, the model's own unless given. tell: is told which share of the steps is done.
        Raises ValueError where nothing is asked for, or where the model cannot draw pictures of that size.
        """
        prompt, negative = _said(prompt, negative)
        (width, height), unit = size or (None, None), self.pipe.vae_scale_factor
        if size and (width % unit or height % unit):
            raise ValueError(f"the size is {width}x{height}: give multiples of {unit}, as this model draws")
        with self._busy:
            self.handle.strength = strength
            return self.pipe(
                prompt,
                negative_prompt=negative or None,
                generator=torch.Generator().manual_seed(seed),
                num_inference_steps=steps,
                guidance_scale=self.guidance if guidance is None else guidance,
                width=width,
                height=height,
                callback_on_step_end=_callback(tell, steps),
            ).images[0]

    def draw(
        self,
        prompt: str,
        negative: str = "",
        *,
        seed: int = 0,
        steps: int = 20,
        strength: float = 1.0,
        guidance: float | None = None,
        tell: Callable[[float], None] = lambda done: None,
    ) -> Comparison:
        """Both pictures, and what they look at. Raises ValueError in one sentence for what makes no sense, before anything is drawn."""
        prompt, negative = _said(prompt, negative)
        _whole("the seed", seed, 0, SEEDS)
        _whole("the number of steps", steps, 1, STEPS)
        _within("the strength", strength, 0, max(STRENGTH, self.strength))
        guidance = self.guidance if guidance is None else guidance
        _within("the guidance", guidance, 1, GUIDANCE)
        how, drawn, looks = {"seed": int(seed), "steps": int(steps), "guidance": guidance}, [], []
        with self._busy:
            for number, eta in enumerate((0, strength)):
                with watched(self.pipe.unet) as seen:
                    half = partial(_half, tell, number)
                    drawn.append(self.picture(prompt, negative, strength=eta, tell=half, **how))
                looks.append(words(self.pipe.tokenizer, prompt, seen.shares()))
        looked = [(word, before, after) for (word, before), (_, after) in zip(*looks, strict=True)]
        return Comparison(*drawn, looked, self.unread(prompt, negative))

    def unread(self, prompt: str, negative: str = "") -> list[str]:
        """A sentence for each text that the text encoder cuts."""
        texts = {"prompt": prompt, "negative prompt": negative}
        with self._busy:  # a tokenizer keeps between two calls how it cuts and pads: who asks amid a drawing would change the drawing
            lost = {name: count for name, text in texts.items() for count in too_long([text], self.pipe.tokenizer) if count}
        return [
            f"The last {count} tokens of the {name} were not read: it is too long for the text encoder." for name, count in lost.items()
        ]


def load(adapter: str | Path, model: str | Path | None = None, *, revision: str | None = None) -> ComparisonSession:
    """The studio of an adapter and a diffusion model, folders or names on the hub, on the GPU if there is one.

    model: that which the adapter was trained for unless given. revision: of the adapter, on the hub.
    FileNotFoundError or ValueError, in one sentence, where they do not load or fit.
    """
    guest = SURAdapter.from_pretrained(adapter, revision=revision)
    about = guest.config.about
    named = model or (about.get("base_model") if isinstance(about, dict) else None)
    if not named:
        raise ValueError(f"{adapter} does not say which diffusion model it was trained for: name one with --model")
    try:
        pipe = diffusion.load_pipeline(str(named))
    except FileNotFoundError as error:
        whose = "the model" if model else f"the base model of {adapter}"
        raise FileNotFoundError(
            f"{whose} is {str(named)!r}, where no diffusion model can be loaded: give --model, a folder that holds one or a name on the hub"
        ) from error
    return ComparisonSession(pipe.to(resolve_device()), guest, str(named))


def _said(prompt: str | None, negative: str | None) -> tuple[str, str]:
    prompt, negative = _text("prompt", prompt), _text("negative prompt", negative)
    if not prompt:
        raise ValueError("the prompt is empty: write what the picture should show")
    return prompt, negative


def _text(name: str, text: str | None) -> str:
    text = (text or "").strip()
    if len(text) > LONGEST:
        raise ValueError(f"the {name} has {len(text):,} characters: shorten it to {LONGEST:,}, the first words are the ones that are read")
    return text


def _within(name: str, value: float, low: float, high: float) -> None:
    if not isinstance(value, (int, float)) or not isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {_shown(value)}: give a number from {low:g} to {high:g}")


def _whole(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, (int, float)) or not isfinite(value) or value != int(value) or not low <= value <= high:
        raise ValueError(f"{name} is {_shown(value)}: give a whole number from {low} to {high}")


def _shown(value) -> str:
    return "missing" if value is None or value == "" else f"{value:.15g}" if isinstance(value, (int, float)) else repr(value)


def _callback(tell: Callable[[float], None], steps: int):
    def after(_pipe, step: int, _time, given: dict) -> dict:
        tell(min(1.0, (step + 1) / steps))
        return given

    return after


def _half(tell: Callable[[float], None], number: int, done: float) -> None:
    tell((number + done) / 2)
