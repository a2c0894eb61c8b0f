"""Optimizers, and the learning rate of each step."""

from math import cos, pi

import torch
from torch import nn

LR_SCHEDULERS = {  # the factor of the learning rate after a share of the steps past the warm-up
    "cosine": lambda progress: 0.5 * (1 + cos(pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}


def lr_lambda(step: int, total_steps: int, lr_scheduler: str = "cosine", warmup_ratio: float = 0.1) -> float:
    """Returns the factor of the learning rate at a step, from 0: linear warm-up over `warmup_ratio` of the steps, then the scheduler."""
    warmup = max(1, int(total_steps * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    return LR_SCHEDULERS[lr_scheduler]((step - warmup) / max(1, total_steps - warmup))


def build_optimizers(
    model: nn.Module, lr: float, optimizer: str = "muon", weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.98)
) -> list[torch.optim.Optimizer]:
    """Builds the optimizers of the trainable parameters; norms and biases get no weight decay.

    `muon`: Muon (Jordan et al. 2024) for matrices, with updates scaled to the size of AdamW's (arXiv 2502.16982), and AdamW for the rest.
    `adamw`: AdamW for all.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.ndim == 2]
    others = [p for p in trainable if p.ndim != 2]
    if optimizer == "adamw":
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=lr, betas=betas)]
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=0.0)]
