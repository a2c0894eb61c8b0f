"""How well picture and words agree, by a CLIP that nothing was trained on: 100 · max(cos, 0) (Hessel et al. 2021, without the 2.5).

Take another CLIP than the base model's text encoder and another than the one that filtered the pairs.
"""

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor


class ClipJudge:
    """Unit vectors of pictures and of texts, on the GPU if there is one. Raises FileNotFoundError where no model lies."""

    def __init__(self, model: str):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.processor = AutoProcessor.from_pretrained(model)
            self.model = AutoModel.from_pretrained(model).to(self.device).eval()
        except OSError as error:
            cure = "name a folder or a model of the hub, or null"
            raise FileNotFoundError(f"params.yaml: evaluate.clip is {model!r}, where no CLIP can be loaded: {cure}") from error

    @torch.inference_mode()
    def images(self, images: list[Image.Image]) -> np.ndarray:
        inputs = self.processor(images=images, return_tensors="pt").to(self.device)
        return _unit(self.model.get_image_features(**inputs))  # (N, d)

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> np.ndarray:
        """Padded to the model's length, since some models (SigLIP) know no other; what is longer is cut, its end token kept."""
        length = self.model.config.text_config.max_position_embeddings  # some tokenizers name none
        inputs = self.processor(text=texts, return_tensors="pt", padding="max_length", truncation=True, max_length=length)
        inputs = inputs.to(self.device)
        return _unit(self.model.get_text_features(**inputs))  # (N, d)


def _unit(features) -> np.ndarray:
    features = getattr(features, "pooler_output", features)  # transformers 5 wraps what 4 gave bare
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def score(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """100 · max(cos, 0) of each picture with its text, (N, d), (N, d) -> (N,)."""
    return 100 * np.maximum((images * texts).sum(-1), 0)


def distances(images: np.ndarray) -> np.ndarray:
    """1 − cos of each picture to the others of its prompt, averaged, (S, d) -> (S,); their mean is that over all pairs.

    0 where all seeds draw one picture; NaN where there is one seed.
    """
    if len(images) < 2:
        return np.full(len(images), np.nan)
    apart = 1 - images @ images.T  # (S, S)
    np.fill_diagonal(apart, 0)
    return np.maximum(apart.sum(-1) / (len(images) - 1), 0)
