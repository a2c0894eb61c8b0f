"""What people would choose, as a CLIP says that was trained on half a million choices: PickScore (Kirstain et al., arXiv 2305.01569).

s · cos(picture, prompt). It was trained on pairs of one prompt, so it tells the better of two pictures of a prompt; its mean over
prompts is no grade. The prompt is the plain one in every arm.
"""

from functools import cache

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors
from sur_adapter.models.torch_utils import resolve_device

PARAM = "evaluate.measures.pickscore"


def measure(
    images: list[Image.Image],
    prompts: list[dict],
    *,
    model: str = "yuvalkirstain/PickScore_v1",
    processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
) -> np.ndarray:
    """(N,). processor: the CLIP that PickScore was trained from, whose words and pixels it reads."""
    read, judge = _load(model, processor)
    length = judge.config.text_config.max_position_embeddings
    texts = [prompt["prompt"] for prompt in prompts]
    inputs = read(text=texts, images=images, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    with torch.inference_mode():
        return judge(**inputs.to(judge.device)).logits_per_image.diagonal().cpu().numpy()  # (N, N) -> (N,)


@cache
def _load(model: str, processor: str) -> tuple:
    with loading_errors(f"{PARAM}.processor", processor):
        read = AutoProcessor.from_pretrained(processor, **NO_REMOTE_CODE)
    with loading_errors(f"{PARAM}.model", model):
        return read, AutoModel.from_pretrained(model, dtype=torch.float32, **SAFETENSORS_ONLY).to(resolve_device()).eval()
