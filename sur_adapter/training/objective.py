"""The training objective: the weighted sum of the loss terms on a batch of cached features."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.features.query_bank import CrossAttention
from sur_adapter.training import losses
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.config import LossConfig
from sur_adapter.training.distributed import DistributedContext
from sur_adapter.training.randomness import default_generators


class Objective:
    """L = w_diffusion · L_diffusion + w_prompt · L_prompt + w_llm · L_llm.

    layers: the U-Net's cross-attention layers with their query banks, for `loss.prompt: attention`. diffusion_loss: a DiffusionLoss, for
    w_diffusion above 0. empty_prompt (L, d): text features of the empty prompt, for empty_prompt_prob above 0.
    """

    def __init__(
        self,
        config: LossConfig,
        *,
        layers: list[CrossAttention] | None = None,
        diffusion_loss: Callable[..., Tensor] | None = None,
        empty_prompt: Tensor | None = None,
    ):
        self.config, self.layers, self.diffusion_loss, self.empty_prompt = config, layers, diffusion_loss, empty_prompt
        self.weights = {"prompt": config.w_prompt, "llm": config.w_llm, "diffusion": config.w_diffusion}
        self.kl = partial(losses.kl, direction=config.kl_direction, temperature=config.temperature, reduction=config.token_reduction)

    def __call__(
        self,
        adapter: SURAdapter,
        batch: TrainingBatch,
        generator: torch.Generator | None = None,
        context: DistributedContext | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss, and each unweighted term whose weight is not 0, without gradient.

        generator: of all random numbers; None is torch's default. context: which shard of the global batch `batch` is.
        """
        context = context or DistributedContext()
        batch, replaced = self._replace_simple(batch, generator, context)
        batch, emptied = self._replace_by_empty(batch, generator, context)
        with default_generators(generator if adapter.training else None, batch.simple.device):  # dropout
            query = adapter.query(batch.simple)  # (B, L, d)
        adapted = adapter.adapt(batch.simple, query)  # (B, L, d)
        pooled = None if batch.simple_pooled is None else adapter.pool(batch.simple_pooled)  # (B, p)
        terms = {}
        if self.config.w_prompt:
            terms["prompt"] = self._prompt(batch, adapted, pooled, generator, context)
        if self.config.w_llm:
            projected = adapter.projection(_mean_over_tokens(batch.teacher))  # (B, d)
            terms["llm"] = losses.llm(projected, query, self._mask(batch, "simple"), _unchanged(replaced, emptied), self.kl)
        if self.config.w_diffusion:
            embeds = adapted if emptied is None else torch.where(emptied[:, None, None], self.empty_prompt, adapted)
            terms["diffusion"] = self._diffusion(batch, embeds, pooled, generator, context)
        loss = sum(self.weights[name] * value for name, value in terms.items())
        return loss, {name: value.detach() for name, value in terms.items()}

    def _prompt(
        self, batch: TrainingBatch, adapted: Tensor, pooled: Tensor | None, generator: torch.Generator | None, context: DistributedContext
    ) -> Tensor:
        """Computes L_prompt of the token features, plus that of SDXL's pooled vector, with the same weight."""
        if self.config.prompt == "attention":
            loss = losses.prompt_attention(self.layers, batch.complex, adapted, generator=generator, mean=context.all_reduce_mean)
        else:
            loss = self.kl(batch.complex, adapted, self._mask(batch, "simple", "complex"))
        return loss if pooled is None else loss + losses.pooled(batch.complex_pooled, pooled, context.all_reduce_mean)

    def _diffusion(
        self, batch: TrainingBatch, adapted: Tensor, pooled: Tensor | None, generator: torch.Generator | None, context: DistributedContext
    ) -> Tensor:
        conditions = [
            {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled_embeds, "time_ids": batch.time_ids}
            for embeds, pooled_embeds in ((adapted, pooled), (batch.complex, batch.complex_pooled))
        ]
        return self.diffusion_loss(batch.latents, *conditions, generator, context)

    def _mask(self, batch: TrainingBatch, *prompts: str) -> Tensor | None:
        """Marks the tokens that are no padding in at least one of the prompts, (B, L); None if all count."""
        if not self.config.mask_padding:
            return None
        lengths = [getattr(batch, f"{prompt}_length") for prompt in prompts]
        if any(length is None for length in lengths):
            raise ValueError("params.yaml: loss.mask_padding needs the lengths of the prompts, and the cache holds none: set it to false")
        return torch.arange(batch.simple.shape[1], device=batch.simple.device) < torch.stack(lengths).amax(0)[:, None]

    def _replace_simple(
        self, batch: TrainingBatch, generator: torch.Generator | None, context: DistributedContext
    ) -> tuple[TrainingBatch, Tensor | None]:
        """Replaces some simple prompts by their complex prompts. Returns the batch and which rows (B,)."""
        if not self.config.complex_prompt_prob:
            return batch, None
        rows = (context.rand(len(batch), generator) < self.config.complex_prompt_prob).to(batch.simple.device)
        fields = {}
        for suffix in ("", "_pooled", "_length"):
            simple_value, complex_value = getattr(batch, f"simple{suffix}"), getattr(batch, f"complex{suffix}")
            if simple_value is not None:
                mask = rows.view(-1, *[1] * (simple_value.ndim - 1))
                fields[f"simple{suffix}"] = torch.where(mask, complex_value, simple_value)
        return replace(batch, **fields), rows

    def _replace_by_empty(
        self, batch: TrainingBatch, generator: torch.Generator | None, context: DistributedContext
    ) -> tuple[TrainingBatch, Tensor | None]:
        """Replaces both prompts of some rows by the empty prompt. Returns the batch and which rows (B,)."""
        if not self.config.empty_prompt_prob:
            return batch, None
        rows = (context.rand(len(batch), generator) < self.config.empty_prompt_prob).to(batch.simple.device)
        simple_embeds, complex_embeds = (torch.where(rows[:, None, None], self.empty_prompt, x) for x in (batch.simple, batch.complex))
        return replace(batch, simple=simple_embeds, complex=complex_embeds), rows


def _unchanged(*replaced: Tensor | None) -> Tensor | None:
    """Marks the rows that none of the masks replaced, (B,); None if there is no mask."""
    masks = [rows for rows in replaced if rows is not None]
    return ~torch.stack(masks).any(0) if masks else None


def _mean_over_tokens(teacher: Tensor) -> Tensor:
    """Returns one vector per prompt, (B, d_llm): for features per token (B, T, d_llm), the mean over tokens that are not zero."""
    if teacher.ndim == 2:
        return teacher
    present = teacher.ne(0).any(-1, keepdim=True)  # (B, T, 1)
    return (teacher * present).sum(1) / present.sum(1).clamp_min(1)
