"""Distance from adapted plain prompts to keyword prompts in the text encoder's space: shows whether training works, without any image."""

import torch
from torch import nn

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.features.store import FeatureStore
from sur_adapter.models.torch_utils import resolve_device

MAX_PAIRS = 2000
BATCH = 64


@torch.inference_mode()
def embedding_distance(adapter: SURAdapter, features: FeatureStore, split: str = "test") -> dict:
    """Measures the distance to the keyword prompt's embedding, with and without the adapter.

    Returns {"cosine": {arm: mean}, "mse": {arm: mean}, "pairs": number} with the arms "baseline" and "adapter".
    Means over all positions, padding included, since the U-Net attends to it, too; the cosine is taken position by position.
    """
    index, device = features.rows_of_split(split)[:MAX_PAIRS], resolve_device()
    adapter, total = adapter.to(device).eval(), {}
    for start in range(0, len(index), BATCH):
        rows = features.rows(index[start : start + BATCH], ["simple", "complex"])
        simple_embeds, complex_embeds = (rows[name].float().to(device) for name in ("simple", "complex"))  # (B, L, d)
        for arm, embeds in {"baseline": simple_embeds, "adapter": adapter(simple_embeds)}.items():
            batch = {
                "cosine": nn.functional.cosine_similarity(embeds, complex_embeds, dim=-1).mean(-1),  # (B,)
                "mse": (embeds - complex_embeds).square().mean((1, 2)),  # (B,)
            }
            for name, values in batch.items():
                total[name, arm] = total.get((name, arm), 0.0) + values.double().sum().item()
    means = {name: {arm: total[name, arm] / len(index) for arm in ("baseline", "adapter")} for name in ("cosine", "mse")}
    return means | {"pairs": len(index)}
