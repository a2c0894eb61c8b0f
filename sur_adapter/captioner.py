"""BLIP: pictures to plain sentences.

Sampled, so that a picture gets one of many true sentences, yet a function of the picture and the seed alone: the noise
of each draw is named by the picture's id, so neither the batch nor the machine's random state matters.
"""

from hashlib import sha256

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, BlipForConditionalGeneration, LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from sur_adapter.schema import named

LONGEST = 40  # tokens; BLIP's sentences rarely pass 20


class Captioner:
    """`model`: a folder or a name on the hub. `top_p`: share of the likelihood sampled from; None takes the likeliest word each time."""

    def __init__(self, model: str, device: str | None = None, top_p: float | None = None, seed: int = 0):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with named("caption.model", model):
            self.processor = AutoProcessor.from_pretrained(model)
            self.model = BlipForConditionalGeneration.from_pretrained(model, dtype=torch.float32).to(device).eval()
        self.length = min(LONGEST, self.model.config.text_config.max_position_embeddings)
        self.top_p, self.seed = top_p, seed

    @torch.no_grad()
    def caption(self, images: list[Image.Image], ids: list[str]) -> list[str]:
        """One sentence for each picture (RGB); `ids` name their noise."""
        pixels = self.processor(images=images, return_tensors="pt").pixel_values.to(self.model.device)  # (B, 3, H, W)
        noise = [] if self.top_p is None else [TopPLogitsWarper(self.top_p), Gumbel([f"{self.seed} {i}" for i in ids])]
        tokens = self.model.generate(
            pixels, logits_processor=LogitsProcessorList(noise), do_sample=False, num_beams=1, max_length=self.length
        )
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]


class Gumbel(LogitsProcessor):
    """argmax(logits + Gumbel noise) is a draw from softmax(logits): greedy search becomes sampling, each row with noise of its own."""

    def __init__(self, names: list[str]):
        self.draws = [np.random.default_rng(int(sha256(name.encode()).hexdigest()[:16], 16)) for name in names]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = np.stack([rng.gumbel(size=scores.shape[1]) for rng in self.draws])  # (B, vocabulary)
        return scores + torch.from_numpy(noise).to(scores)
