"""Captions images with BLIP or any other image-to-text model of transformers (BLIP-2, GIT, Florence, …).

Captions are sampled, so that equal contents are described in many ways. They depend on the image, their number and the seed alone: the
noise is seeded by the image's id, so neither the batch nor the global random state matters, and more captions of an image leave the first
ones equal.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    TopPLogitsWarper,
)

from sur_adapter.io.hashing import short_digest
from sur_adapter.io.prefetch import prefetch
from sur_adapter.models.clip import CLIPEncoder, cosine_scores
from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors
from sur_adapter.models.torch_utils import compute_dtype, resolve_device

MAX_NEW_TOKENS = 40  # BLIP's captions rarely exceed 20 tokens


@dataclass(frozen=True)
class CaptionConfig:
    """Section `caption` of params.yaml.

    model: a folder or a name on the hub. sentences: captions of each image; each makes a pair with the keyword prompt. top_p: nucleus
    sampling; null takes the most likely token (greedy). candidates: samples for each caption, of which `judge`, a CLIP model, selects the
    best (CapFilt, Li et al., arXiv 2201.12086). use_source_captions: the first caption is the one that the source already has, if any.
    precision: of weights and products; bf16 is fp32 on a CPU without bf16 instructions.
    """

    model: str
    sentences: int = 1
    top_p: float | None = None
    seed: int = 0
    batch_size: int = 32
    candidates: int = 1
    judge: str | None = None
    use_source_captions: bool = True
    precision: Literal["fp32", "bf16"] = "bf16"

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: give at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give a share above 0 and up to 1, or null for greedy decoding")
        if self.sentences < 1 or (self.sentences > 1 and self.top_p is None):
            raise ValueError(
                f"sentences is {self.sentences} and top_p {self.top_p}: give at least 1 sentence per image, and for more a top_p to sample "
                "them with (without it all captions of an image are equal)"
            )
        if self.candidates < 1 or (self.candidates > 1) != bool(self.judge and self.top_p):
            raise ValueError(
                f"candidates is {self.candidates}, top_p {self.top_p}, judge {self.judge!r}: several candidates need a top_p to sample "
                "them with and a CLIP as judge; a single one needs no judge"
            )


class Captioner:
    """Captions images with an image-to-text model of transformers."""

    def __init__(self, config: CaptionConfig, device: str = "auto"):
        model, judge = config.model, config.judge
        device = resolve_device(device)
        with loading_errors("caption.model", model):
            self.image_processor = AutoImageProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            self.tokenizer = AutoTokenizer.from_pretrained(model, **NO_REMOTE_CODE)
            dtype = compute_dtype(device, config.precision)
            self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype, **SAFETENSORS_ONLY).to(device).eval()
        if config.sentences * config.candidates > 1 and hasattr(self.model, "vision_model"):  # BLIP, BLIP-2, …
            self.model.vision_model = LastOutput(self.model.vision_model)
        self.judge = CLIPEncoder(judge, "caption.judge") if judge else None
        decoder = self.model.config.get_text_config(decoder=True)
        self.max_length = min(MAX_NEW_TOKENS, getattr(decoder, "max_position_embeddings", MAX_NEW_TOKENS))
        self.top_p, self.seed, self.candidates, self.sentences = config.top_p, config.seed, config.candidates, config.sentences

    def caption_batches(self, images: Iterable[Image.Image], ids: list[str], batch_size: int) -> Iterator[list[list[str]]]:
        """Yields the captions of each batch, as `caption` does; the images of the next batches are decoded meanwhile."""
        batches = prefetch((batch_ids, self._pixels(batch), batch) for batch_ids, batch in _batches(ids, iter(images), batch_size))
        for batch_ids, pixels, batch in batches:
            yield self._captions(pixels, batch, batch_ids)

    def caption(self, images: list[Image.Image], ids: list[str]) -> list[list[str]]:
        """Returns for each image (RGB) its captions, `sentences` of them; the ids seed the sampling noise."""
        return self._captions(self._pixels(images), images, ids)

    def _pixels(self, images: list[Image.Image]) -> torch.Tensor:
        return self.image_processor(images=images, return_tensors="pt").pixel_values  # (B, 3, H, W)

    def _captions(self, pixels: torch.Tensor, images: list[Image.Image], ids: list[str]) -> list[list[str]]:
        image_embeds = self.judge.encode_images(images) if self.judge else None  # (B, d)
        pixels = pixels.to(self.model.device, self.model.dtype)  # once, so that all samples get the same tensor
        sentences = [self._best_samples(pixels, image_embeds, ids, number) for number in range(self.sentences)]
        return [list(captions) for captions in zip(*sentences, strict=True)]

    def _best_samples(self, pixels: torch.Tensor, image_embeds: np.ndarray | None, ids: list[str], number: int) -> list[str]:
        """Returns caption `number` of each image: of its candidates the one with the highest CLIP score, the first of equals."""
        numbers = range(number * self.candidates, (number + 1) * self.candidates)
        candidates = [self._sample(pixels, [f"{self.seed} {i} {k}" if k else f"{self.seed} {i}" for i in ids]) for k in numbers]
        if self.candidates == 1:
            return candidates[0]
        best = np.argmax([cosine_scores(image_embeds, self.judge.encode_texts(texts)) for texts in candidates], axis=0)  # (B,)
        return [candidates[k][row] for row, k in enumerate(best)]

    @torch.no_grad()
    def _sample(self, pixels: torch.Tensor, noise_keys: list[str]) -> list[str]:
        """Generates one caption for each image: sampled with the noise of its key, or greedy if there is no top_p."""
        processors = [] if self.top_p is None else [TopPLogitsWarper(self.top_p), GumbelNoise(noise_keys)]
        tokens = self.model.generate(
            pixel_values=pixels.to(self.model.device, self.model.dtype),
            logits_processor=LogitsProcessorList(processors),
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.max_length - 1,
        )
        return [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


class LastOutput(nn.Module):
    """A vision model that computes the features of a batch of images once for all captions, as long as the batch is the same tensor."""

    def __init__(self, vision_model: nn.Module):
        super().__init__()
        self.vision_model, self.pixels, self.output = vision_model, None, None

    def forward(self, pixel_values: torch.Tensor, **options):
        if self.pixels is not pixel_values:
            self.output = self.vision_model(pixel_values=pixel_values, **options)
            self.pixels = pixel_values
        return self.output


def _batches(ids: list[str], images: Iterator[Image.Image], size: int) -> Iterator[tuple[list[str], list[Image.Image]]]:
    for start in range(0, len(ids), size):
        batch_ids = ids[start : start + size]
        yield batch_ids, list(islice(images, len(batch_ids)))


class GumbelNoise(LogitsProcessor):
    """Turns greedy search into sampling: argmax(logits + Gumbel noise) is a sample of softmax(logits). Each row has its own generator."""

    def __init__(self, keys: list[str]):
        self.generators = [np.random.default_rng(int(short_digest(key), 16)) for key in keys]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = np.stack([rng.gumbel(size=scores.shape[1]) for rng in self.generators])  # (B, vocabulary)
        return scores + torch.from_numpy(noise).to(scores)
