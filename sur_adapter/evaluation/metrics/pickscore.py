"""PickScore (Kirstain et al., arXiv 2305.01569): a CLIP trained on half a million human choices between images.

s · cos(image, prompt). It was trained on pairs of images of one prompt, so it ranks images of the same prompt; its mean over prompts is
not a quality score. Every arm is scored with the plain prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors
from sur_adapter.models.torch_utils import resolve_device

PARAM = "evaluate.metrics.pickscore"
READS_PROMPTS = True


@dataclass(frozen=True)
class Config:
    model: str = "yuvalkirstain/PickScore_v1"
    processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # of the CLIP that PickScore was trained from


def measure(images: Sequence[Image.Image], prompts: Sequence[dict], config: Config) -> np.ndarray:
    """Computes the PickScore of each image with its own plain prompt, (N,)."""
    processor, model = _load(config.model, config.processor)
    length = model.config.text_config.max_position_embeddings
    texts = [prompt["prompt"] for prompt in prompts]
    inputs = processor(text=texts, images=images, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs.to(model.device)).logits_per_image.diagonal().cpu().numpy()  # (N, N) -> (N,)


@cache
def _load(model: str, processor: str) -> tuple:
    with loading_errors(f"{PARAM}.processor", processor):
        loaded = AutoProcessor.from_pretrained(processor, **NO_REMOTE_CODE)
    with loading_errors(f"{PARAM}.model", model):
        weights = AutoModel.from_pretrained(model, dtype=torch.float32, **SAFETENSORS_ONLY)
    return loaded, weights.to(resolve_device()).eval()
