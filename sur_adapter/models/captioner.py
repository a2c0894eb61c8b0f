"""Pictures to plain sentences, by BLIP or any other image-to-text model of transformers (BLIP-2, GIT, Florence, …).

Sampled, so that a picture gets one of many true sentences, yet a function of the picture and the seed alone: the noise
of each draw is named by the picture's id, so neither the batch nor the machine's random state matters.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

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

from sur_adapter.io.prefetch import prefetch
from sur_adapter.models import torch_utils as compute
from sur_adapter.models.clip import CLIPEncoder, cosine_scores
from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors

MAX_NEW_TOKENS = 40  # tokens; BLIP's sentences rarely pass 20


@dataclass(frozen=True)
class CaptionConfig:
    """Section `caption` of params.yaml.

    model: a folder or a name on the hub. top_p: nucleus sampling; null takes the most likely token (greedy). candidates: captions sampled
    per image, of which `judge`, a CLIP model, selects the best (CapFilt, Li et al., arXiv 2201.12086). use_source_captions: keep the
    sentence that a source already has.
    """

    model: str
    top_p: float | None = None
    seed: int = 0
    batch_size: int = 32
    candidates: int = 1
    judge: str | None = None
    use_source_captions: bool = True

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
    """Captions images with an image-to-text model of transformers. On a GPU it runs in bf16, on a CPU in fp32."""

    def __init__(self, config: CaptionConfig, device: str = "auto"):
        model, judge = config.model, config.judge
        device = compute.resolve_device(device)
        with loading_errors("caption.model", model):
            self.image_processor = AutoImageProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            self.tokenizer = AutoTokenizer.from_pretrained(model, **NO_REMOTE_CODE)
            dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
            self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype, **SAFETENSORS_ONLY).to(device).eval()
        self.judge = CLIPEncoder(judge, "caption.judge") if judge else None
        text = self.model.config.get_text_config(decoder=True)
        self.length = min(MAX_NEW_TOKENS, getattr(text, "max_position_embeddings", MAX_NEW_TOKENS))
        self.top_p, self.seed, self.candidates = config.top_p, config.seed, config.candidates

    def captions(self, images: Iterable[Image.Image], ids: list[str], batch: int) -> Iterator[list[str]]:
        """A sentence for each picture, a batch at a time; the next pictures are decoded meanwhile."""
        images = iter(images)
        work = prefetch((names, self._pixels(pictures), pictures) for names, pictures in _paired(ids, images, batch))
        for names, pixels, pictures in work:
            yield self._best(pixels, pictures, list(names))

    def caption(self, images: list[Image.Image], ids: list[str]) -> list[str]:
        """One sentence for each picture (RGB); `ids` name their noise."""
        return self._best(self._pixels(images), images, ids)

    def _pixels(self, images: list[Image.Image]) -> torch.Tensor:
        return self.image_processor(images=images, return_tensors="pt").pixel_values  # (B, 3, H, W)

    def _best(self, pixels: torch.Tensor, images: list[Image.Image], ids: list[str]) -> list[str]:
        """Of each picture's candidates the one that CLIP finds to agree best; the first of equals."""
        drawn = [
            self._draw(pixels, [f"{self.seed} {i}" if k == 0 else f"{self.seed} {i} {k}" for i in ids]) for k in range(self.candidates)
        ]
        if self.candidates == 1:
            return drawn[0]
        seen = self.judge.encode_images(images)  # (B, d)
        best = np.argmax([cosine_scores(seen, self.judge.encode_texts(sentences)) for sentences in drawn], axis=0)  # (B,)
        return [drawn[k][row] for row, k in enumerate(best)]

    @torch.no_grad()
    def _draw(self, pixels: torch.Tensor, names: list[str]) -> list[str]:
        noise = [] if self.top_p is None else [TopPLogitsWarper(self.top_p), Gumbel(names)]
        pixels = pixels.to(self.model.device, self.model.dtype)
        tokens = self.model.generate(
            pixel_values=pixels, logits_processor=LogitsProcessorList(noise), do_sample=False, num_beams=1, max_new_tokens=self.length - 1
        )
        return [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _paired(ids: list[str], images: Iterator[Image.Image], batch: int) -> Iterator[tuple[list[str], list[Image.Image]]]:
    for start in range(0, len(ids), batch):
        names = ids[start : start + batch]
        yield names, [image for _, image in zip(names, images, strict=False)]


class Gumbel(LogitsProcessor):
    """argmax(logits + Gumbel noise) is a draw from softmax(logits): greedy search becomes sampling, each row with noise of its own."""

    def __init__(self, names: list[str]):
        self.draws = [np.random.default_rng(int(sha256(name.encode()).hexdigest()[:16], 16)) for name in names]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = np.stack([rng.gumbel(size=scores.shape[1]) for rng in self.draws])  # (B, vocabulary)
        return scores + torch.from_numpy(noise).to(scores)
