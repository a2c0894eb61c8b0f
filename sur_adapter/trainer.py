"""Trains the adapter from cached features alone: neither text encoder, VAE nor LLM is loaded, the U-Net only if its loss is asked for."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import cos, pi
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from sur_adapter import loss
from sur_adapter.adapter import SURAdapter
from sur_adapter.compute import autocast


@dataclass
class Features:
    """What is cached of one split; rows agree. Latents are there only if the diffusion loss is asked for."""

    simple: Tensor  # (N, L, d)
    complex: Tensor  # (N, L, d)
    teacher: Tensor  # (N, d_llm)
    latents: Tensor | None = None  # (N, 2, 4, h, w): mean and log-variance

    def __len__(self) -> int:
        return len(self.simple)

    def rows(self, index: Tensor, device: str) -> "Features":
        picked = (None if t is None else t[index].float().to(device) for t in (self.simple, self.complex, self.teacher, self.latents))
        return Features(*picked)


@dataclass
class Objective:
    """The weighted sum of the three terms, with whatever is frozen behind them."""

    w_diffusion: float
    w_prompt: float
    w_llm: float
    layers: list[loss.CrossAttention] | None = None  # given: D_prompt is `attention`; else `kl`
    unet: nn.Module | None = None
    scheduler: object = None
    scaling: float = 1.0

    def __call__(self, adapter: SURAdapter, batch: Features) -> tuple[Tensor, dict[str, float]]:
        """(L, each unweighted term that has a weight)."""
        query = adapter.query(batch.simple)
        adapted = adapter.adapt(batch.simple, query)  # (B, L, d)
        terms = {}
        if self.w_prompt:
            terms["prompt"] = (
                loss.prompt_attention(self.layers, batch.complex, adapted) if self.layers else loss.prompt_kl(batch.complex, adapted)
            )
        if self.w_llm:
            terms["llm"] = loss.llm(adapter.projection(batch.teacher), query)
        if self.w_diffusion:
            terms["diffusion"] = self._diffusion(batch, adapted)
        if not terms:
            raise ValueError("params.yaml: loss.w_diffusion, w_prompt and w_llm are all 0: give at least one of them a weight")
        total = sum(getattr(self, f"w_{name}") * value for name, value in terms.items())
        return total, {name: value.item() for name, value in terms.items()}

    def _diffusion(self, batch: Features, adapted: Tensor) -> Tensor:
        mean, logvar = batch.latents.unbind(1)
        z = (mean + (0.5 * logvar).exp() * torch.randn_like(mean)) * self.scaling  # (B, 4, h, w)
        noise, t = torch.randn_like(z), torch.randint(self.scheduler.config.num_train_timesteps, (len(z),), device=z.device)
        return loss.diffusion(noise, self.unet(self.scheduler.add_noise(z, noise, t), t, adapted).sample)


def fit(
    adapter: SURAdapter,
    objective: Objective,
    train: Features,
    validation: Features,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int = 0,
    every: int = 50,
    device: str = "cpu",
    precision: str = "fp32",
) -> tuple[list[dict], float]:
    """A tenth of the steps up to the learning rate `lr`, the rest down to nothing.

    Returns (history, samples a second): a row every `every` steps, means since the last.

    precision: fp32, or bf16 for the products alone (autocast); weights and their optimizer stay fp32.
    """
    adapter.to(device).train()
    optimizers = optimizers_of(adapter, lr)
    schedules = [LambdaLR(o, lambda done: share(done, steps)) for o in optimizers]
    history, seen, start = [], [], perf_counter()
    for step in (bar := tqdm(range(1, steps + 1), desc="train", disable=None)):
        torch.manual_seed(seed * 1_000_003 + step)
        rows = train.rows(torch.randint(len(train), (batch,)), device)
        with attention(device), autocast(device, precision):
            total, terms = objective(adapter, rows)
            total.backward()
        norm = nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        adapter.zero_grad(set_to_none=True)
        seen.append({"loss": total.item(), "gradient_norm": norm.item()} | terms)
        if step % every == 0 or step == steps:
            means = {key: sum(row[key] for row in seen) / len(seen) for key in seen[0]}
            history.append({"step": step} | means | _validate(adapter, objective, validation, batch, device))
            seen = []
            bar.set_postfix(loss=f"{means['loss']:.4f}")
    rate = steps * batch / (perf_counter() - start)
    adapter.eval()
    return history, rate


def share(done: int, steps: int) -> float:
    """Of the learning rate, after so many steps: a straight line up, half a cosine down."""
    up = max(1, steps // 10)
    return (done + 1) / up if done < up else 0.5 * (1 + cos(pi * (done - up) / max(1, steps - up)))


def optimizers_of(adapter: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for matrices, its step scaled to the size of AdamW's (arXiv 2502.16982); AdamW for norms and biases."""
    matrices = [p for p in adapter.parameters() if p.ndim == 2]
    others = [p for p in adapter.parameters() if p.ndim != 2]
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]


def attention(device: str) -> AbstractContextManager:
    """On a CPU attention is spelt out: the fused kernel's way back takes twice the step's time."""
    return sdpa_kernel(SDPBackend.MATH) if torch.device(device).type == "cpu" else nullcontext()


@torch.no_grad()
def _validate(adapter: SURAdapter, objective: Objective, validation: Features, batch: int, device: str) -> dict[str, float]:
    """The loss on up to four batches that are never trained on, with the same noise each time."""
    if not len(validation):
        return {}
    adapter.eval()
    torch.manual_seed(0)
    parts = torch.arange(len(validation)).split(batch)[:4]
    losses = [objective(adapter, validation.rows(rows, device))[0].item() for rows in parts]
    adapter.train()
    return {"validation_loss": sum(losses) / len(losses)}
