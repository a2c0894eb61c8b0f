"""The training objective: the weighted sum of the loss terms on a batch of cached features."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.features.query_bank import CrossAttention
from sur_adapter.training import losses
from sur_adapter.training.batch import TrainingBatch, joined
from sur_adapter.training.config import LossConfig
from sur_adapter.training.distributed import DistributedContext
from sur_adapter.training.group_threads import MapGroups, in_turn
from sur_adapter.training.prompt_attention import PromptAttention
from sur_adapter.training.randomness import default_generators
from sur_adapter.training.teacher import mean_over_tokens
from sur_adapter.training.thinning import Prompts, thinned, thinned_rows, whole

VALIDATION_QUERIES = 32  # of each layer: more than in training, as fewer make the validation loss noisy
GROUP_SIZE = 32  # prompts of similar length that are computed together, in the mean


@dataclass
class Comparison:
    """What cross-attention outputs under the adapted features are compared with.

    s (N, d): the folded queries. parts: term -> its rows of all prompts. targets: of each group of prompts, computes o (b, N, d).
    """

    s: Tensor
    parts: dict[str, slice]
    targets: list[Callable[[], Tensor]]


@dataclass
class Student:
    """What the adapter makes of prompts, in the groups of `prompts`. errors: PromptAttention.errors of each group, if it is compared."""

    prompts: Prompts
    query: list[Tensor]  # (b, T, d) each
    adapted: list[Tensor]  # (b, T, d) each
    errors: list[tuple[Tensor, list[Tensor]]]
    pooled: Tensor | None  # (B, p)


@dataclass
class Draws:
    """Where the random numbers of the pairs and of the text rows come from, and the processes that share the batch."""

    pairs: torch.Generator | None
    text: torch.Generator | None
    context: DistributedContext


class Objective:
    """L = w_diffusion · L_diffusion + w_prompt · L_prompt + w_llm · L_llm.

    layers: the U-Net's cross-attention layers with their query banks, for the losses that use them. diffusion_loss: a DiffusionLoss, for
    w_diffusion above 0. empty_prompt (L, d): text features of the empty prompt, for empty_prompt_prob above 0. padding_tokens: of
    TrainConfig. decoder: G of `loss.llm: decoded`, frozen. text_projection: P z(v) of the text rows, for `kl`; by default the adapter's.
    """

    def __init__(
        self,
        config: LossConfig,
        *,
        layers: list[CrossAttention] | None = None,
        diffusion_loss: Callable[..., Tensor] | None = None,
        empty_prompt: Tensor | None = None,
        padding_tokens: int | None = None,
        decoder: nn.Module | None = None,
        text_projection: nn.Module | None = None,
    ):
        self.config, self.diffusion_loss, self.empty_prompt = config, diffusion_loss, empty_prompt
        self.attention = PromptAttention(layers) if layers else None
        self.padding_tokens, self.decoder, self.text_projection = padding_tokens, decoder, text_projection
        self.weights = {"prompt": config.w_prompt, "llm": config.w_llm, "diffusion": config.w_diffusion}
        self.kl = partial(losses.kl, direction=config.kl_direction, temperature=config.temperature, reduction=config.token_reduction)

    def __call__(
        self,
        adapter: SURAdapter,
        batch: TrainingBatch,
        generator: torch.Generator | None = None,
        context: DistributedContext | None = None,
        text: TrainingBatch | None = None,
        text_generator: torch.Generator | None = None,
        map_groups: MapGroups = in_turn,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss, and each unweighted term whose weight is not 0, without gradient.

        generator: of all random numbers of the pairs; None is torch's default. context: which shard of the global batch `batch` is.
        text: text rows, which change neither the random numbers nor the other terms of the pairs. text_generator: of their random numbers.
        map_groups: computes the groups of prompts; GroupThreads.map has graphs of their own for them.
        """
        draws = Draws(generator, text_generator, context or DistributedContext())
        batch, replaced = self._replace_simple(batch, generator, draws.context)
        batch, emptied = self._replace_by_empty(batch, generator, draws.context)
        rows = [batch] if text is None else [batch, text]
        student, comparison = self._student(adapter, rows, draws, text is not None, map_groups)
        terms = self._attention_terms(rows, student, comparison, draws)
        if self.config.w_prompt and "prompt" not in terms:
            adapted = student.prompts.restore(student.adapted)[: len(batch)]
            terms["prompt"] = self.kl(batch.complex, adapted, self._mask(batch, "simple", "complex"))
            terms["prompt"] = terms["prompt"] + self._pooled(batch, student, slice(len(batch)), draws.context)
        if self.config.uses_projection:
            projected = torch.cat([self._project(adapter, part, part is text) for part in rows])
            terms["llm"] = self._kl_llm(rows, student, projected, _unchanged(replaced, emptied))
        if self.config.w_diffusion:
            terms["diffusion"] = self._diffusion(batch, student, emptied, draws)
        loss = sum(self.weights[name] * value for name, value in terms.items())
        return loss, {name: value.detach() for name, value in terms.items()}

    def needs_all_tokens(self, variant: str) -> bool:
        """Whether a training of this variant of the adapter computes all tokens, and all prompts together."""
        config = self.config
        by_token = bool(config.w_diffusion) or (bool(config.w_prompt) and config.prompt == "kl")
        return by_token or variant == "official" or self.padding_tokens is None

    def num_groups(self, num_pairs: int) -> int:
        """Returns in how many groups the prompts of a step are computed, pairs and text rows, if it does not need all tokens."""
        num_text = self.config.sentences if self.config.w_llm else 0
        return -(-(num_pairs + num_text) // group_size(num_pairs + num_text))

    def text_loss(self, adapter: SURAdapter, text: TrainingBatch, generator: torch.Generator | None = None) -> Tensor:
        """Computes L_llm of text rows alone, unweighted, as the validation needs it."""
        draws = Draws(generator, generator, DistributedContext())
        student, comparison = self._student(adapter, [text], draws, has_text=True)
        if self.config.uses_projection:
            return self._kl_llm([text], student, self._project(adapter, text, True), None)
        return self._attention_terms([text], student, comparison, draws)["llm"]

    def _student(
        self, adapter: SURAdapter, rows: list[TrainingBatch], draws: Draws, has_text: bool, map_groups: MapGroups = in_turn
    ) -> tuple[Student, Comparison | None]:
        """Runs the adapter on pairs and text rows together, or on each alone if the network has dropout: it draws for whole batches."""
        dropout = adapter.config.variant == "official"
        prompts = self._prompts(adapter, joined(rows, "simple"), joined(rows, "simple_length"), list(map(len, rows)) if dropout else None)
        comparison = self._comparison(adapter, rows, prompts, draws, has_text)

        def compute(number: int) -> tuple:
            x, log_weight = prompts.groups[number]
            generator = (draws.text if number else draws.pairs) if dropout and adapter.training else None
            with default_generators(generator, x.device):
                query = adapter.query(x, log_weight)
            adapted = adapter.adapt(x, query, log_weight=log_weight)
            if comparison is None:
                return query, adapted
            with torch.no_grad():
                target = comparison.targets[number]()
            return query, adapted, *self.attention.errors(target, self.attention.attend(comparison.s, adapted, log_weight))

        groups = (in_turn if dropout else map_groups)(compute, len(prompts.groups))
        query, adapted, *errors = zip(*groups, strict=True)
        pooled = joined(rows, "simple_pooled")
        pooled = None if pooled is None else adapter.pool(pooled)
        return Student(prompts, list(query), list(adapted), list(zip(*errors, strict=True)), pooled), comparison

    def _prompts(self, adapter: SURAdapter, embeds: Tensor, length: Tensor | None, parts: list[int] | None = None) -> Prompts:
        """Leaves out padding in training, unless a term needs every token."""
        if not adapter.training or length is None or self.needs_all_tokens(adapter.config.variant):
            return whole(embeds, length, parts)
        return thinned(embeds, length, self.padding_tokens, group_size(len(embeds)))

    def _comparison(
        self, adapter: SURAdapter, rows: list[TrainingBatch], prompts: Prompts, draws: Draws, has_text: bool
    ) -> Comparison | None:
        """Prepares what L_prompt of the pairs and L_llm of the text rows compare, on the same queries; None if neither compares outputs."""
        config, sizes = self.config, list(map(len, rows))
        parts = {}
        if config.w_prompt and config.prompt == "attention" and len(rows) > has_text:
            parts["prompt"] = slice(0, sizes[0])
        if config.w_llm and config.llm != "kl" and has_text:
            parts["llm"] = slice(sum(sizes) - sizes[-1], sum(sizes))
        if not parts:
            return None
        num_queries = config.num_queries if adapter.training else max(config.num_queries, VALIDATION_QUERIES)
        s = self.attention.sample(num_queries, draws.pairs if "prompt" in parts else draws.text)
        return Comparison(s, parts, self._targets(adapter, rows, prompts, s, "llm" in parts and config.llm == "decoded"))

    def _targets(
        self, adapter: SURAdapter, rows: list[TrainingBatch], prompts: Prompts, s: Tensor, decoded: bool
    ) -> list[Callable[[], Tensor]]:
        """Returns, for each group of `prompts`, what computes o of what the adapted features should be, (b, N, d).

        It is that of E(complex), and for the text rows of E(answer) or G(v).
        """
        if decoded:
            with torch.no_grad():
                own = [self._prompts(adapter, batch.complex, batch.complex_length) for batch in rows[:-1]]
                targets = [part.map(lambda embeds, log_weight: self.attention.attend(s, embeds, log_weight)) for part in own]
                targets = prompts.split(torch.cat([*targets, self.attention.attend(s, self.decoder(rows[-1].teacher))]))
            return [lambda value=target: value for target in targets]
        embeds, length = joined(rows, "complex"), joined(rows, "complex_length")
        if not prompts.is_thinned or length is None:
            return [partial(self.attention.attend, s, part) for part in prompts.split(embeds)]
        return [lambda p=part: self.attention.attend(s, *thinned_rows(embeds, length, p, self.padding_tokens)) for part in prompts.rows]

    def _attention_terms(
        self, rows: list[TrainingBatch], student: Student, comparison: Comparison | None, draws: Draws
    ) -> dict[str, Tensor]:
        """Computes L_prompt of the pairs and L_llm of the text rows where they compare cross-attention outputs."""
        if comparison is None:
            return {}
        parts = comparison.parts
        places = [student.prompts.places(part) for part in parts.values()]
        terms = dict(zip(parts, self.attention.join(student.errors, places, draws.context.all_reduce_mean), strict=True))
        for name, part in parts.items():
            if name == "prompt" or self.config.llm == "words":
                terms[name] = terms[name] + self._pooled(rows[0 if name == "prompt" else -1], student, part, draws.context)
        return terms

    def _pooled(self, batch: TrainingBatch, student: Student, part: slice, context: DistributedContext) -> Tensor | float:
        """Computes the loss of SDXL's pooled vector, which has the weight of the tokens' loss; 0 if there is none."""
        if student.pooled is None:
            return 0.0
        return losses.pooled(batch.complex_pooled, student.pooled[part], context.all_reduce_mean)

    def _project(self, adapter: SURAdapter, batch: TrainingBatch, is_text: bool) -> Tensor:
        """Computes P z(v), (B, d)."""
        projection = self.text_projection if is_text and self.text_projection is not None else adapter.projection
        return projection(mean_over_tokens(batch.teacher))

    def _kl_llm(self, rows: list[TrainingBatch], student: Student, projected: Tensor, unchanged: Tensor | None) -> Tensor:
        """Computes losses.llm. unchanged (P,): the pairs that count; None: all."""
        if unchanged is not None and len(rows) > 1:
            unchanged = torch.cat([unchanged, unchanged.new_ones(len(rows[1]))])
        means = []
        for q, (_, log_weight), length in zip(student.query, student.prompts.groups, student.prompts.lengths, strict=True):
            mask = None if log_weight is None else log_weight.exp()  # (b, T)
            if self.config.mask_padding:
                mask = _real_tokens(length, q)
            means.append(losses.mean_query(q, mask))
        return losses.llm(projected, student.prompts.restore(means)[:, None], None, unchanged, self.kl)

    def _diffusion(self, batch: TrainingBatch, student: Student, emptied: Tensor | None, draws: Draws) -> Tensor:
        adapted = student.prompts.restore(student.adapted)[: len(batch)]
        pooled = None if student.pooled is None else student.pooled[: len(batch)]
        embeds = adapted if emptied is None else torch.where(emptied[:, None, None], self.empty_prompt, adapted)
        conditions = [
            {"prompt_embeds": tokens, "pooled_prompt_embeds": vector, "time_ids": batch.time_ids}
            for tokens, vector in ((embeds, pooled), (batch.complex, batch.complex_pooled))
        ]
        return self.diffusion_loss(batch.latents, *conditions, draws.pairs, draws.context)

    def _mask(self, batch: TrainingBatch, *prompts: str) -> Tensor | None:
        """Marks the tokens that are no padding in at least one of the prompts, (B, L); None if all count."""
        if not self.config.mask_padding:
            return None
        lengths = [getattr(batch, f"{prompt}_length") for prompt in prompts]
        return _real_tokens(None if any(length is None for length in lengths) else torch.stack(lengths).amax(0), batch.simple)

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


def group_size(num_prompts: int) -> int:
    """Returns how many prompts a group has in the mean: GROUP_SIZE, or fewer, so that a small batch has a group for each of two threads."""
    return min(GROUP_SIZE, max(GROUP_SIZE // 2, -(-num_prompts // 2)))


def _unchanged(*replaced: Tensor | None) -> Tensor | None:
    """Marks the rows that none of the masks replaced, (B,); None if there is no mask."""
    masks = [rows for rows in replaced if rows is not None]
    return ~torch.stack(masks).any(0) if masks else None


def _real_tokens(length: Tensor | None, embeds: Tensor) -> Tensor:
    """Marks the tokens that are no padding, (B, T), from the lengths (B,). embeds (B, T, d)."""
    if length is None:
        raise ValueError("params.yaml: loss.mask_padding needs the lengths of the prompts, and the cache holds none: set it to false")
    return torch.arange(embeds.shape[1], device=embeds.device) < length[:, None]
