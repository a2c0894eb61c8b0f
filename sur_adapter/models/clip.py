"""Image-text agreement: the cosine of CLIP embeddings, at least 0 (CLIPScore, Hessel et al., arXiv 2104.08718).

For evaluation, use another CLIP than the base model's text encoder and than the one that filtered the pairs.
"""

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors
from sur_adapter.models.torch_utils import compute_dtype, resolve_device


class CLIPEncoder:
    """Embeds images and texts as unit vectors with CLIP or SigLIP, on the GPU if there is one.

    model: a folder or a name on the hub. param: the key of params.yaml that errors name. precision: of weights and products; bf16 is fp32
    on a CPU without bf16 instructions. Raises FileNotFoundError if the model is missing.
    """

    def __init__(self, model: str, param: str, precision: str = "fp32"):
        self.device = resolve_device()
        dtype = compute_dtype(self.device, precision)
        with loading_errors(param, model):
            self.processor = AutoProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            self.model = AutoModel.from_pretrained(model, dtype=dtype, **SAFETENSORS_ONLY).to(self.device).eval()

    @torch.inference_mode()
    def encode_images(self, images: list[Image.Image]) -> np.ndarray:
        """Returns (N, d) unit vectors."""
        inputs = self.processor(images=images, return_tensors="pt").to(self.device, self.model.dtype)
        return _normalize(self.model.get_image_features(**inputs))

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Returns (N, d) unit vectors. Texts are padded to the model's length, as SigLIP requires; longer ones are truncated."""
        length = self.model.config.text_config.max_position_embeddings  # some tokenizers have no maximum length
        inputs = self.processor(text=texts, return_tensors="pt", padding="max_length", truncation=True, max_length=length)
        return _normalize(self.model.get_text_features(**inputs.to(self.device)))


def text_scores(encoder: CLIPEncoder, image_embeds: np.ndarray, texts: list[str | None]) -> list[float | None]:
    """Computes max(cos, 0) of each image embedding (N, d) with its text; None if there is no text."""
    values = cosine_scores(image_embeds, encoder.encode_texts([text or "" for text in texts])).tolist()  # (N,)
    return [value if text else None for value, text in zip(values, texts, strict=True)]


def _normalize(features) -> np.ndarray:
    features = getattr(features, "pooler_output", features)  # transformers 5 may return an output object
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def cosine_scores(image_embeds: np.ndarray, text_embeds: np.ndarray) -> np.ndarray:
    """Computes max(cos, 0) of each image with its text: unit vectors (N, d), (N, d) -> (N,)."""
    return np.maximum((image_embeds * text_embeds).sum(-1), 0)


def mean_pairwise_distances(image_embeds: np.ndarray) -> np.ndarray:
    """Computes the mean of 1 - cos of each image to the other images of its prompt: unit vectors (S, d) -> (S,).

    Their mean is the mean over all pairs. 0 if all seeds give the same image; NaN if there is only one seed.
    """
    if len(image_embeds) < 2:
        return np.full(len(image_embeds), np.nan)
    distances = 1 - image_embeds @ image_embeds.T  # (S, S)
    np.fill_diagonal(distances, 0)
    return np.maximum(distances.sum(-1) / (len(image_embeds) - 1), 0)
