"""Small real things that the tests of training share: a U-Net, banks of queries, cached features, an adapter."""

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn

from sur_adapter import loss
from sur_adapter.adapter import AdapterConfig, SURAdapter
from sur_adapter.features.queries import cross_attentions
from sur_adapter.objective import Features

SIZES = {"block_out_channels": (16, 32), "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 2, "norm_num_groups": 8}
BLOCKS = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}


def unet(**more) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(8, **BLOCKS, **SIZES, **more).eval().requires_grad_(False)


def scheduler(**more) -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **more)


def layers(unet, n: int = 40) -> list[loss.CrossAttention]:
    torch.manual_seed(1)
    found = []
    for m in cross_attentions(unet).values():
        q = torch.randn(n, m.to_q.out_features)
        found.append(loss.CrossAttention(m.heads, q, m.to_k.weight, m.to_v.weight, m.to_out[0].weight, m.to_out[0].bias))
    return found


def features(n: int = 24, **more) -> Features:
    torch.manual_seed(2)
    return Features(torch.randn(n, 9, 32), torch.randn(n, 9, 32), torch.randn(n, 20), torch.randn(n, 2, 4, 8, 8), **more)


def adapter(awake: bool = False) -> SURAdapter:
    """awake: no longer the identity."""
    torch.manual_seed(3)
    made = SURAdapter(AdapterConfig(32, 20, heads=4))
    if awake:
        nn.init.normal_(made.g.weight, std=0.1)
    return made


def gradients(made: nn.Module) -> dict[str, torch.Tensor]:
    """Of all that has one beyond rounding."""
    return {name: p.grad for name, p in made.named_parameters() if p.grad is not None and p.grad.norm() > 1e-6}
