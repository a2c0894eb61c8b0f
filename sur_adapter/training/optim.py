"""Optimizers, and the learning rate of each step."""

from math import cos, pi

import torch
from torch import nn

from sur_adapter.models.torch_utils import has_bf16

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


class Fp32Muon(torch.optim.Muon):
    """torch.optim.Muon with products in fp32 in place of bf16, which some CPUs emulate slowly. The states of both are interchangeable.

    Only for `adjust_lr_fn="match_rms_adamw"`: updates have the size of AdamW's.
    """

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient; torch documents the hyperparameters of a group."""
        for group in self.param_groups:
            parameters, gradients, buffers = [], [], []
            self._init_group(group, parameters, gradients, buffers)
            momentum, lr = group["momentum"], group["lr"]
            for parameter, gradient, buffer in zip(parameters, gradients, buffers, strict=True):
                buffer.lerp_(gradient, 1 - momentum)
                direction = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
                update = orthogonalise(direction, group["ns_coefficients"], group["ns_steps"], group["eps"])
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.add_(update, alpha=-lr * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalise(matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """Returns U Vᵀ, nearly, of a matrix (m, n) = U S Vᵀ, by Newton–Schulz iterations; source: Jordan et al. 2024, "Muon"."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).clone()
    x /= x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


MUON_PARTS = 4  # optimizers that share the matrices, so that several threads can take a step


def build_optimizers(
    model: nn.Module, lr: float, optimizer: str = "muon", weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.98)
) -> list[torch.optim.Optimizer]:
    """Builds the optimizers of the trainable parameters; norms and biases get no weight decay.

    `muon`: Muon (Jordan et al. 2024) for matrices, with updates scaled to the size of AdamW's (arXiv 2502.16982), and AdamW for the rest.
    The matrices are shared by several optimizers, which changes no update. `adamw`: AdamW for all.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.ndim == 2]
    others = [p for p in trainable if p.ndim != 2]
    if optimizer == "adamw":
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=lr, betas=betas)]
    muon_class = torch.optim.Muon if all(has_bf16(p.device) for p in matrices) else Fp32Muon
    muons = [muon_class(part, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw") for part in _equal_parts(matrices)]
    return [*muons, torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=0.0)]


def _equal_parts(matrices: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Shares matrices between optimizers, for about the same work each; fewer matrices than MUON_PARTS have one each."""
    parts, work = [[] for _ in range(min(MUON_PARTS, len(matrices)))], [0] * MUON_PARTS
    for matrix in sorted(matrices, key=nn.Parameter.numel, reverse=True):
        k = min(range(len(parts)), key=work.__getitem__)
        parts[k].append(matrix)
        work[k] += min(matrix.shape) * matrix.numel()
    return parts
