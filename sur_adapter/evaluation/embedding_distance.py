"""How near the adapter brings plain prompts to keyword prompts, in the text encoder's space: whether training works, without a picture."""

import torch
from torch import nn

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.features.store import Store
from sur_adapter.models.torch_utils import resolve_device

MOST = 2000  # pairs looked at
BATCH = 64


@torch.inference_mode()
def nearness(adapter: SURAdapter, features: Store, split: str = "test") -> dict:
    """{"cosine", "mse"}: {"baseline": of x, "adapter": of c'} to the keyword prompt's features, and {"pairs"}.

    Both over every position, padding too, since the U-Net attends to it; the cosine is that of the vectors at one position.
    """
    index, where = features.where(split)[:MOST], resolve_device()
    adapter, total = adapter.to(where).eval(), {}
    for k in range(0, len(index), BATCH):
        rows = features.rows(index[k : k + BATCH], ["simple", "complex"])
        x, target = (rows[name].float().to(where) for name in ("simple", "complex"))  # (B, L, d)
        for arm, seen in {"baseline": x, "adapter": adapter(x)}.items():
            values = {
                "cosine": nn.functional.cosine_similarity(seen, target, dim=-1).mean(-1),
                "mse": (seen - target).square().mean((1, 2)),
            }
            for name, each in values.items():  # (B,)
                total[name, arm] = total.get((name, arm), 0.0) + each.double().sum().item()
    means = {name: {arm: total[name, arm] / len(index) for arm in ("baseline", "adapter")} for name in ("cosine", "mse")}
    return means | {"pairs": len(index)}
