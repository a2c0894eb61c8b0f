"""Generates an image without and with the adapter, from the same seed and initial noise. Used by the command line and the demo."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from threading import RLock

import torch
from PIL import Image

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.data.prompts.cleaning import count_excess_tokens
from sur_adapter.generation.attach import attach
from sur_adapter.generation.attention_maps import record_attention, word_attention
from sur_adapter.generation.sampling import sample

MAX_PROMPT_LENGTH = 2000  # characters: some 500 tokens, of which a text encoder reads 75
MAX_STEPS = 150
MAX_SCALE = 2.0
MAX_GUIDANCE_SCALE = 30.0
MAX_SEED = 2**32 - 1  # as in other web interfaces; JavaScript represents it exactly

OnProgress = Callable[[float], None]  # called with the share of the steps that are done, above 0 and up to 1


@dataclass
class Comparison:
    """An image without the adapter and one with it. attention: (word, share without, share with the adapter). warnings: sentences."""

    plain: Image.Image
    adapted: Image.Image
    attention: list[tuple[str, float, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class ComparisonSession:
    """A pipeline with its adapter. Calls from several threads run one after another. model: name of the pipeline's model."""

    def __init__(self, pipe, adapter: SURAdapter, model: str = ""):
        self.pipe, self.handle, self.model, self._lock = pipe, attach(pipe, adapter), model, RLock()

    @property
    def default_scale(self) -> float:
        """The adapter's own scale."""
        return self.handle.adapter.config.strength

    @property
    def default_guidance_scale(self) -> float:
        """The default of the pipeline."""
        return inspect.signature(self.pipe.__call__).parameters["guidance_scale"].default

    def generate(
        self,
        prompt: str,
        negative_prompt: str = "",
        *,
        scale: float,
        seed: int = 0,
        num_inference_steps: int = 20,
        guidance_scale: float | None = None,
        size: tuple[int, int] | None = None,
        on_progress: OnProgress = lambda share: None,
    ) -> Image.Image:
        """Generates one image. The initial noise is that of `torch.Generator().manual_seed(seed)` on the CPU: the same as in a script of
        the user, with and without the adapter, and on every device.

        guidance_scale: by default the pipeline's. size: width and height in pixels, by default the model's.
        Raises ValueError for an empty or a too long prompt, and for a size that the model cannot generate.
        """
        prompt, negative_prompt = _check_prompts(prompt, negative_prompt)
        (width, height), unit = size or (None, None), self.pipe.vae_scale_factor
        if size and (width % unit or height % unit):
            raise ValueError(f"the size is {width}x{height}: give multiples of {unit} for this model")
        with self._lock:
            self.handle.scale = scale
            (image,) = sample(
                self.pipe,
                [prompt],
                negative_prompt=[negative_prompt] if negative_prompt else None,
                generator=torch.Generator().manual_seed(seed),
                num_inference_steps=num_inference_steps,
                guidance_scale=self.default_guidance_scale if guidance_scale is None else guidance_scale,
                width=width,
                height=height,
                callback_on_step_end=_step_callback(on_progress, num_inference_steps),
            )
        return image

    def compare(
        self,
        prompt: str,
        negative_prompt: str = "",
        *,
        seed: int = 0,
        num_inference_steps: int = 20,
        scale: float = 1.0,
        guidance_scale: float | None = None,
        on_progress: OnProgress = lambda share: None,
    ) -> Comparison:
        """Generates both images and records their attention. Raises ValueError for a value out of range, before anything is generated."""
        prompt, negative_prompt = _check_prompts(prompt, negative_prompt)
        guidance_scale = self.default_guidance_scale if guidance_scale is None else guidance_scale
        _check_whole_number("the seed", seed, 0, MAX_SEED)
        _check_whole_number("the number of steps", num_inference_steps, 1, MAX_STEPS)
        _check_number("the scale", scale, 0, max(MAX_SCALE, self.default_scale))
        _check_number("the guidance scale", guidance_scale, 1, MAX_GUIDANCE_SCALE)
        settings = {"seed": int(seed), "num_inference_steps": int(num_inference_steps), "guidance_scale": guidance_scale}
        images, attention = [], []
        with self._lock:
            for number, value in enumerate((0, scale)):

                def report(share: float, number: int = number) -> None:
                    on_progress((number + share) / 2)

                with record_attention(self.pipe.unet) as recorder:
                    images.append(self.generate(prompt, negative_prompt, scale=value, on_progress=report, **settings))
                attention.append(word_attention(self.pipe.tokenizer, prompt, recorder.shares()))
        rows = [(word, before, after) for (word, before), (_, after) in zip(*attention, strict=True)]
        return Comparison(*images, rows, self.truncation_warnings(prompt, negative_prompt))

    def truncation_warnings(self, prompt: str, negative_prompt: str = "") -> list[str]:
        """Returns one sentence for each of the two prompts that the text encoder truncates."""
        texts = {"prompt": prompt, "negative prompt": negative_prompt}
        with self._lock:  # counting switches off the tokenizer's truncation and padding, which a generation in another thread needs
            truncated = {name: count for name, text in texts.items() for count in count_excess_tokens([text], self.pipe.tokenizer) if count}
        return [
            f"The last {count} tokens of the {name} were not read: it is too long for the text encoder."
            for name, count in truncated.items()
        ]


def _check_prompts(prompt: str | None, negative_prompt: str | None) -> tuple[str, str]:
    """Strips both prompts. Raises ValueError if the first is empty or either is too long."""
    prompt, negative_prompt = _check_length("prompt", prompt), _check_length("negative prompt", negative_prompt)
    if not prompt:
        raise ValueError("the prompt is empty: write what the image should show")
    return prompt, negative_prompt


def _check_length(name: str, text: str | None) -> str:
    text = (text or "").strip()
    if len(text) > MAX_PROMPT_LENGTH:
        raise ValueError(
            f"the {name} has {len(text):,} characters: shorten it to {MAX_PROMPT_LENGTH:,}; the text encoder reads only its beginning"
        )
    return text


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if not isinstance(value, (int, float)) or not isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {_display(value)}: give a number from {low:g} to {high:g}")


def _check_whole_number(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, (int, float)) or not isfinite(value) or value != int(value) or not low <= value <= high:
        raise ValueError(f"{name} is {_display(value)}: give a whole number from {low} to {high}")


def _display(value) -> str:
    return "missing" if value is None or value == "" else f"{value:.15g}" if isinstance(value, (int, float)) else repr(value)


def _step_callback(on_progress: OnProgress, steps: int) -> Callable:
    def on_step_end(_pipe, step: int, _timestep, tensors: dict) -> dict:
        on_progress(min(1.0, (step + 1) / steps))
        return tensors

    return on_step_end
