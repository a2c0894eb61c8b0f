"""How well a picture and a text agree: the cosine of their CLIP embeddings, at least 0 (Hessel et al., arXiv 2104.08718)."""

from collections.abc import Iterable
from itertools import islice

import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoProcessor, CLIPModel


class ClipScore:
    def __init__(self, model: str, device: str | None = None):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = AutoProcessor.from_pretrained(model)
        self.model = CLIPModel.from_pretrained(model, dtype=torch.float32).to(device).eval()
        self.length = self.model.config.text_config.max_position_embeddings  # tokens; what is longer is cut

    @torch.no_grad()
    def images(self, images: list[Image.Image]) -> torch.Tensor:
        """Unit vectors [N, d] on the CPU."""
        pixels = self.processor(images=images, return_tensors="pt").pixel_values.to(self.model.device)
        return _unit(self.model.get_image_features(pixel_values=pixels))

    @torch.no_grad()
    def texts(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors [N, d] on the CPU."""
        batch = self.processor(text=texts, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        return _unit(self.model.get_text_features(**batch.to(self.model.device)))

    def score(self, images: Iterable[Image.Image], texts: list[str | None], batch: int) -> list[float | None]:
        """max(cos, 0) of each picture and its text; None where there is no text. Pictures are taken `batch` at a time."""
        images, scores = iter(images), []
        for start in range(0, len(texts), batch):
            words = texts[start : start + batch]
            pictures = list(islice(images, len(words)))
            cosines = (self.images(pictures) * self.texts([w or "" for w in words])).sum(1).clamp(min=0)  # (B,)
            scores += [value if word else None for value, word in zip(cosines.tolist(), words, strict=True)]
        return scores


def _unit(features) -> torch.Tensor:
    features = getattr(features, "pooler_output", features)  # transformers 5 gives an output object
    return F.normalize(features.float(), dim=-1).cpu()
