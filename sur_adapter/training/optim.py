"""How far a step goes: the optimizers, and their learning rate from step to step."""

from math import cos, pi

import torch
from torch import nn

SCHEDULES = {
    "cosine": lambda done: 0.5 * (1 + cos(pi * done)),
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}
OPTIMIZERS = ("muon", "adamw")


def share(done: int, steps: int, schedule: str = "cosine", warmup: float = 0.1) -> float:
    """Of the learning rate, after so many steps: a straight line up for a share `warmup` of them, then the schedule."""
    up = max(1, int(steps * warmup))
    return (done + 1) / up if done < up else SCHEDULES[schedule]((done - up) / max(1, steps - up))


def optimizers_of(
    adapter: nn.Module, lr: float, optimizer: str = "muon", weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.98)
) -> list[torch.optim.Optimizer]:
    """`muon`: Muon (Jordan et al. 2024) for matrices, its step scaled to the size of AdamW's (arXiv 2502.16982); AdamW for the rest.
    `adamw`: AdamW for all. Norms and biases do not decay.
    """
    trained = [p for p in adapter.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2]
    others = [p for p in trained if p.ndim != 2]
    betas = tuple(betas)
    if optimizer == "adamw":
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=lr, betas=betas)]
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=0.0)]
