"""How unsafe an image is, from 0 (harmless) to 1 (explicit): the maximum of the source's level and a safety model's probability."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from PIL import Image

from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors

LEVELS = {"None": 0.0, "Soft": 1 / 3, "Mature": 2 / 3, "X": 1.0}  # Civitai's; any other level counts as the worst
SAFE_LABELS = ("normal", "safe", "sfw", "neutral", "drawings")  # labels of the common safety models for harmless images


@dataclass(frozen=True)
class Config:
    """Section `scores.nsfw` of params.yaml.

    model: an image classifier of transformers, one of whose labels is in `SAFE_LABELS`; null uses the source's level alone.
    batch_size: images.
    """

    model: str | None = None
    batch_size: int = 32

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: give at least 1")


def score(images: Iterable[Image.Image], rows: list[dict], config: Config) -> list[float | None]:
    """Returns max(level, 1 - p(safe)) of each image; None if there is neither a level nor a model."""
    levels = [LEVELS.get(row["nsfw"], 1.0) if row["nsfw"] is not None else None for row in rows]
    unsafe = _classify(list(images), config.model) if config.model else [None] * len(rows)
    return [max((value for value in pair if value is not None), default=None) for pair in zip(levels, unsafe, strict=True)]


def _classify(images: list[Image.Image], name: str) -> list[float]:
    """Computes 1 - p(safe) of each image. name: of the model."""
    import torch

    processor, model, safe = _load_classifier(name)
    with torch.inference_mode():
        pixels = processor(images=images, return_tensors="pt").pixel_values.to(model.device)
        probabilities = model(pixels).logits.softmax(-1)  # (N, labels)
    return (1 - probabilities[:, safe].sum(-1)).clamp(0, 1).tolist()


@cache
def _load_classifier(model: str) -> tuple:
    """Loads (image processor, classifier, indices of its safe labels) once for all shards. Raises ValueError if no label is safe."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from sur_adapter.models.torch_utils import resolve_device

    with loading_errors("scores.nsfw.model", model):
        processor = AutoImageProcessor.from_pretrained(model, **NO_REMOTE_CODE)
        classifier = AutoModelForImageClassification.from_pretrained(model, dtype=torch.float32, **SAFETENSORS_ONLY).eval()
    labels = classifier.config.id2label
    safe = [i for i, label in labels.items() if label.lower() in SAFE_LABELS]
    if not safe:
        raise ValueError(
            f"params.yaml: scores.nsfw.model has the labels {', '.join(labels.values())}, none of {', '.join(SAFE_LABELS)}: choose another"
        )
    return processor, classifier.to(resolve_device()), safe
