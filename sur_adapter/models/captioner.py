"""Captions images with BLIP or any other image-to-text model of transformers (BLIP-2, GIT, Florence, …).

Captions are sampled, so that equal contents are described in many ways. They depend on the image and the seed alone: the noise is seeded by
the image's id, so neither the batch nor the global random state matters.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from PIL import Image
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

    model: a folder or a name on the hub. top_p: nucleus sampling; null takes the most likely token (greedy). candidates: captions sampled
    per image, of which `judge`, a CLIP model, selects the best (CapFilt, Li et al., arXiv 2201.12086). use_source_captions: keep the
    caption that a source already has. precision: of weights and products; bf16 is fp32 on a CPU without bf16 instructions.
    """

    model: str
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
        self.judge = CLIPEncoder(judge, "caption.judge") if judge else None
        decoder = self.model.config.get_text_config(decoder=True)
        self.max_length = min(MAX_NEW_TOKENS, getattr(decoder, "max_position_embeddings", MAX_NEW_TOKENS))
        self.top_p, self.seed, self.candidates = config.top_p, config.seed, config.candidates

    def caption_batches(self, images: Iterable[Image.Image], ids: list[str], batch_size: int) -> Iterator[list[str]]:
        """Yields the captions of each batch; the images of the next batches are decoded meanwhile."""
        batches = prefetch((batch_ids, self._pixels(batch), batch) for batch_ids, batch in _batches(ids, iter(images), batch_size))
        for batch_ids, pixels, batch in batches:
            yield self._best_captions(pixels, batch, batch_ids)

    def caption(self, images: list[Image.Image], ids: list[str]) -> list[str]:
        """Returns one caption for each image (RGB); the ids seed the sampling noise."""
        return self._best_captions(self._pixels(images), images, ids)

    def _pixels(self, images: list[Image.Image]) -> torch.Tensor:
        return self.image_processor(images=images, return_tensors="pt").pixel_values  # (B, 3, H, W)

    def _best_captions(self, pixels: torch.Tensor, images: list[Image.Image], ids: list[str]) -> list[str]:
        """Samples the candidates of each image and selects the one with the highest CLIP score; the first of equals."""
        candidates = [
            self._sample(pixels, [f"{self.seed} {i}" if k == 0 else f"{self.seed} {i} {k}" for i in ids]) for k in range(self.candidates)
        ]
        if self.candidates == 1:
            return candidates[0]
        image_embeds = self.judge.encode_images(images)  # (B, d)
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
