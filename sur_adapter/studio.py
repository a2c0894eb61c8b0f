"""One prompt, drawn without and with the adapter: same seed, same noise, one picture at a time."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from threading import Lock

import torch
from PIL import Image

import sur_adapter.diffusion as diffusion
from sur_adapter.adapter import SURAdapter
from sur_adapter.attention import watched, words
from sur_adapter.compute import device
from sur_adapter.guest import attach
from sur_adapter.wording import too_long

LONGEST = 2000  # characters of a prompt: some 500 tokens, of which a text encoder reads 75
STEPS = 150
STRENGTH = 2.0
GUIDANCE = 30.0
SEEDS = 2**32 - 1  # as many as every other page takes, and a browser's numbers hold


@dataclass
class Pair:
    """looked: each word of the prompt with the share of attention that it gets without and with the adapter. notes: sentences."""

    plain: Image.Image
    adapted: Image.Image
    looked: list[tuple[str, float, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Studio:
    """A pipeline with its guest. `draw` may be called from several threads: the second waits."""

    def __init__(self, pipe, adapter: SURAdapter):
        self.pipe, self.handle, self._busy = pipe, attach(pipe, adapter), Lock()

    @property
    def guidance(self) -> float:
        """What the pipeline takes when nobody says."""
        return inspect.signature(self.pipe.__call__).parameters["guidance_scale"].default

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
    ) -> Pair:
        """Both pictures. tell: is told which share of the steps is done.

        The noise is what `torch.Generator().manual_seed(seed)` makes on the CPU, so that a script draws the same.
        Raises ValueError in one sentence for what makes no sense, before anything is drawn.
        """
        prompt, negative = _text("prompt", prompt), _text("negative prompt", negative)
        if not prompt:
            raise ValueError("the prompt is empty: write what the picture should show")
        _whole("the seed", seed, 0, SEEDS)
        _whole("the number of steps", steps, 1, STEPS)
        _within("the strength", strength, 0, max(STRENGTH, self.handle.adapter.config.strength))
        guidance = self.guidance if guidance is None else guidance
        _within("the guidance", guidance, 1, GUIDANCE)
        with self._busy:
            drawn, looks = [], []
            for number, self.handle.strength in enumerate((0, strength)):
                options = {"negative_prompt": negative or None, "guidance_scale": guidance, "num_inference_steps": int(steps)}
                options["callback_on_step_end"] = _callback(lambda done, number=number: tell((number + done) / 2), int(steps))
                with watched(self.pipe.unet) as seen:
                    drawn += self.pipe(prompt, generator=torch.Generator().manual_seed(int(seed)), **options).images
                looks.append(words(self.pipe.tokenizer, prompt, seen.shares()))
        looked = [(word, before, after) for (word, before), (_, after) in zip(*looks, strict=True)]
        return Pair(*drawn, looked, _unread(self.pipe.tokenizer, prompt=prompt, **{"negative prompt": negative}))


def load(model: str | Path, adapter: str | Path) -> Studio:
    """The studio of a model's and an adapter's names. FileNotFoundError or ValueError, in one sentence, where they do not load or fit."""
    guest = SURAdapter.from_pretrained(adapter)
    try:
        pipe = diffusion.pipeline(str(model))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no diffusion model can be loaded from {model}: name a folder that holds one, or a model of the hub"
        ) from error
    return Studio(pipe.to(device()), guest)


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


def _unread(tokenizer, **texts: str) -> list[str]:
    """A sentence for each text that the encoder cuts."""
    lost = {name: count for name, text in texts.items() for count in too_long([text], tokenizer) if count}
    return [f"The last {count} tokens of the {name} were not read: it is too long for the text encoder." for name, count in lost.items()]
