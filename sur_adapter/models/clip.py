"""How well a picture and a text agree: the cosine of their CLIP embeddings, at least 0 (Hessel et al., arXiv 2104.08718).

Where it judges, take another CLIP than the base model's text encoder and than the one that filtered the pairs.
"""

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors
from sur_adapter.models.torch_utils import device


class Clip:
    """Unit vectors of pictures and of texts, on the GPU if there is one. FileNotFoundError, naming `param`, where no model lies."""

    def __init__(self, model: str, param: str = "scores.….model"):
        self.device = device()
        with loading_errors(param, model):
            self.processor = AutoProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            self.model = AutoModel.from_pretrained(model, dtype=torch.float32, **SAFETENSORS_ONLY).to(self.device).eval()

    @torch.inference_mode()
    def images(self, images: list[Image.Image]) -> np.ndarray:
        """(N, d)"""
        inputs = self.processor(images=images, return_tensors="pt").to(self.device)
        return _unit(self.model.get_image_features(**inputs))

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> np.ndarray:
        """(N, d). Padded to the model's length, since some models (SigLIP) know no other; what is longer is cut, its end token kept."""
        length = self.model.config.text_config.max_position_embeddings  # some tokenizers name none
        inputs = self.processor(text=texts, return_tensors="pt", padding="max_length", truncation=True, max_length=length)
        return _unit(self.model.get_text_features(**inputs.to(self.device)))


def agreement(clip: Clip, images: np.ndarray, texts: list[str | None]) -> list[float | None]:
    """max(cos, 0) of each picture (N, d) and its text; None where there is no text."""
    values = score(images, clip.texts([text or "" for text in texts])).tolist()  # (N,)
    return [value if text else None for value, text in zip(values, texts, strict=True)]


def _unit(features) -> np.ndarray:
    features = getattr(features, "pooler_output", features)  # transformers 5 wraps what 4 gave bare
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def score(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """max(cos, 0) of each picture with its text, (N, d), (N, d) -> (N,)."""
    return np.maximum((images * texts).sum(-1), 0)


def distances(images: np.ndarray) -> np.ndarray:
    """1 − cos of each picture to the others of its prompt, averaged, (S, d) -> (S,); their mean is that over all pairs.

    0 where all seeds draw one picture; NaN where there is one seed.
    """
    if len(images) < 2:
        return np.full(len(images), np.nan)
    apart = 1 - images @ images.T  # (S, S)
    np.fill_diagonal(apart, 0)
    return np.maximum(apart.sum(-1) / (len(images) - 1), 0)
