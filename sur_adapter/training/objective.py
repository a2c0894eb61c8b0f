"""What the adapter is trained for: the weighted sum of the terms, on what is cached of a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.models.stable_diffusion import scale_latents
from sur_adapter.training import losses as loss
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.diffusion_loss import Denoising
from sur_adapter.training.distributed import DistributedContext


@dataclass
class Objective:
    """The weighted sum of the three terms, with whatever is frozen behind them.

    drop_condition: the share of rows whose prompts become the empty one. The unconditional branch stays the base model's, in training
    as when pictures are drawn: for those rows the U-Net gets the features of the empty prompt plain; the prompt loss asks of the adapter
    to leave them as they are, for pipelines that adapt them after all; the teacher has nothing to say of them.

    keep_complex: the share of rows where the keyword prompt stands in the sentence's place. The adapter shall leave it as it is, so that
    who writes keywords loses nothing; again the teacher, who read the sentence, is silent.
    """

    w_diffusion: float
    w_prompt: float
    w_llm: float
    layers: list[loss.CrossAttention] | None = None  # given: D_prompt is `attention`; else `kl`
    unet: nn.Module | None = None
    scheduler: object = None
    vae_config: Mapping = field(default_factory=lambda: {"scaling_factor": 1.0})
    denoising: Denoising = field(default_factory=Denoising)
    kl: Callable = loss.kl
    mask: bool = False  # padding does not count, in `kl` and in the query's mean
    drop_condition: float = 0.0
    keep_complex: float = 0.0
    empty: Tensor | None = None  # (L, d): features of the empty prompt

    def __call__(
        self, adapter: SURAdapter, batch: TrainingBatch, portion: DistributedContext | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(L, each unweighted term that has a weight). portion: the share of the whole batch that `batch` is."""
        portion = portion or DistributedContext()
        batch, well_put = self._keep(batch, portion)
        batch, dropped = self._drop(batch, portion)
        query = adapter.query(batch.simple)
        adapted = adapter.adapt(batch.simple, query)  # (B, L, d)
        pooled = None if batch.simple_pooled is None else adapter.pool(batch.simple_pooled)  # (B, p)
        terms = {}
        if self.w_prompt:
            terms["prompt"] = self._prompt(batch, adapted, pooled, portion)
        if self.w_llm:
            unread = [rows for rows in (well_put, dropped) if rows is not None]
            counted = ~torch.stack(unread).any(0) if unread else None
            terms["llm"] = loss.llm(adapter.projection(_one(batch.teacher)), query, self._kept(batch, "simple"), counted, self.kl)
        if self.w_diffusion:
            plain = adapted if dropped is None else torch.where(dropped[:, None, None], self.empty, adapted)
            terms["diffusion"] = self._diffusion(batch, plain, pooled, portion)
        if not terms:
            raise ValueError("params.yaml: loss.w_diffusion, w_prompt and w_llm are all 0: give at least one of them a weight")
        total = sum(getattr(self, f"w_{name}") * value for name, value in terms.items())
        return total, {name: value.detach() for name, value in terms.items()}

    def _prompt(self, batch: TrainingBatch, adapted: Tensor, pooled: Tensor | None, portion: DistributedContext) -> Tensor:
        """D_prompt of the words, and of the pooled vector where there is one: it counts as much as all the words."""
        if self.layers:
            words = loss.prompt_attention(self.layers, batch.complex, adapted, mean=portion.mean)
        else:
            words = loss.prompt_kl(batch.complex, adapted, self._kept(batch, "simple", "complex"), self.kl)
        return words if pooled is None else words + loss.pooled(batch.complex_pooled, pooled, portion.mean)

    def _diffusion(self, batch: TrainingBatch, adapted: Tensor, pooled: Tensor | None, portion: DistributedContext) -> Tensor:
        mean, logvar = batch.latents.unbind(1)
        z = scale_latents(mean + (0.5 * logvar).exp() * portion.normal(mean), self.vae_config)  # (B, 4, h, w)
        asked = (
            {"prompt_embeds": adapted, "pooled_prompt_embeds": pooled, "time_ids": batch.frame},
            {"prompt_embeds": batch.complex, "pooled_prompt_embeds": batch.complex_pooled, "time_ids": batch.frame},
        )
        return self.denoising(self.unet, self.scheduler, z, *asked, portion)

    def _kept(self, batch: TrainingBatch, *prompts: str) -> Tensor | None:
        """[B, L]: whether a token of any of the prompts is no padding; None where all count."""
        if not self.mask:
            return None
        lengths = [getattr(batch, f"{prompt}_length") for prompt in prompts]
        if any(length is None for length in lengths):
            raise ValueError("params.yaml: loss.mask asks for the lengths of the prompts, and the cache holds none: set it to false")
        return torch.arange(batch.simple.shape[1], device=batch.simple.device) < torch.stack(lengths).amax(0)[:, None]

    def _keep(self, batch: TrainingBatch, portion: DistributedContext) -> tuple[TrainingBatch, Tensor | None]:
        """The batch with some sentences exchanged for their keyword prompts, and which [B]."""
        if not self.keep_complex:
            return batch, None
        chosen = portion(torch.rand(len(batch) * portion.count) < self.keep_complex).to(batch.simple.device)
        pairs = {name: (getattr(batch, f"simple{name}"), getattr(batch, f"complex{name}")) for name in ("", "_pooled", "_length")}
        given = {
            f"simple{name}": torch.where(chosen.view(-1, *[1] * (simple.ndim - 1)), complex, simple)
            for name, (simple, complex) in pairs.items()
            if simple is not None
        }
        return replace(batch, **given), chosen

    def _drop(self, batch: TrainingBatch, portion: DistributedContext) -> tuple[TrainingBatch, Tensor | None]:
        """The batch with some prompts emptied, and which [B]."""
        if not self.drop_condition:
            return batch, None
        chosen = torch.rand(len(batch) * portion.count) < self.drop_condition
        dropped = portion(chosen).to(batch.simple.device)
        words = (torch.where(dropped[:, None, None], self.empty, x) for x in (batch.simple, batch.complex))
        return replace(batch, **dict(zip(("simple", "complex"), words, strict=True))), dropped


def _one(teacher: Tensor) -> Tensor:
    """One vector a prompt, [B, d_llm]: the mean over its tokens where each has its own."""
    if teacher.ndim == 2:
        return teacher
    there = teacher.ne(0).any(-1, keepdim=True)  # (B, T, 1)
    return (teacher * there).sum(1) / there.sum(1).clamp_min(1)
