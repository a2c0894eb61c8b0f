"""How unsafe a picture is: 0 harmless … 1 explicit, the worse of what its source says and what a safety model sees."""

from collections.abc import Iterable
from functools import cache
from itertools import islice

from PIL import Image

from sur_adapter.io.prefetch import prefetch
from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors

LEVELS = {"None": 0.0, "Soft": 1 / 3, "Mature": 2 / 3, "X": 1.0}  # Civitai's; any other level counts as the worst
SAFE = ("normal", "safe", "sfw", "neutral", "drawings")  # labels of the common models that say a picture is harmless


def score(images: Iterable[Image.Image], rows: list[dict], *, model: str | None = None, batch: int = 32) -> list[float | None]:
    """max(level, 1 − p(safe)); None where neither source nor model says anything. model: any image classifier of transformers."""
    levels = [LEVELS.get(row["nsfw"], 1.0) if row["nsfw"] is not None else None for row in rows]
    seen = _seen(images, len(rows), model, batch) if model else [None] * len(rows)
    pairs = zip(levels, seen, strict=True)
    return [max((v for v in pair if v is not None), default=None) for pair in pairs]


def _seen(images: Iterable[Image.Image], count: int, model: str, batch: int) -> list[float]:
    """1 − p(safe) of each picture."""
    import torch

    look, judge, safe = _judge(model)
    images, values = iter(images), []
    batches = prefetch(look(images=list(islice(images, min(batch, count - k))), return_tensors="pt") for k in range(0, count, batch))
    with torch.inference_mode():
        for pixels in batches:
            likely = judge(pixels.pixel_values.to(judge.device)).logits.softmax(-1)  # (B, labels)
            values += (1 - likely[:, safe].sum(-1)).clamp(0, 1).tolist()
    return values


@cache
def _judge(model: str) -> tuple:
    """(processor, classifier, the numbers of its labels that say safe); loaded once, though shards come one at a time.

    Raises ValueError where no label says safe.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from sur_adapter.models.torch_utils import resolve_device

    with loading_errors("scores.nsfw.model", model):
        look = AutoImageProcessor.from_pretrained(model, **NO_REMOTE_CODE)
        judge = AutoModelForImageClassification.from_pretrained(model, dtype=torch.float32, **SAFETENSORS_ONLY).eval()
    labels = judge.config.id2label
    safe = [i for i, label in labels.items() if label.lower() in SAFE]
    if not safe:
        raise ValueError(
            f"params.yaml: scores.nsfw.model has the labels {', '.join(labels.values())}, none of {', '.join(SAFE)}: name another"
        )
    return look, judge.to(resolve_device()), safe
