"""Estimates the stage `train`: one step of the real objective on the meta device, with the text rows, and without the padding that is left
out."""

from dataclasses import asdict, replace
from functools import partial

import torch
from torch import Tensor

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.features.query_bank import CrossAttention
from sur_adapter.models.stable_diffusion import cross_attention_layers
from sur_adapter.tools.planner.flops import measure_cost, meta_tensor, num_weights
from sur_adapter.tools.planner.model_specs import diffusion_model, language_model
from sur_adapter.tools.planner.settings import PlanSettings
from sur_adapter.tools.planner.stage_costs import WIDTHS, StageCost, latent_shape, query_bank_sizes, text_shapes
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.objective import Objective


def train(pairs: int, settings: PlanSettings, sentences: int = 0, tokens_per_prompt: float = 20) -> StageCost:
    """Estimates the training; rows are samples of pairs. pairs, sentences: those that are kept, for the epochs; 0 leaves that out."""
    config = settings.train
    measured = min(config.batch_size, 64)
    adapter, loss = training_step(settings, measured, tokens_per_prompt)
    cost = measure_cost(loss, backward=True)
    samples = config.steps * config.batch_size * config.gradient_accumulation_steps
    weights = num_weights(adapter)
    states = 2 if config.optimizer == "adamw" else 1  # of the optimizer, for each weight
    unet, width = diffusion_model(settings.models.diffusion)["unet"], WIDTHS[config.precision]
    frozen = width * num_weights(unet) if settings.loss.uses_latents else 0
    if uses_query_bank(settings):
        frozen += width * sum(query_bank_sizes(unet, settings.cache_queries.count))
    memory = 4 * weights * (2 + states) + frozen + cost.peak_bytes * config.batch_size / measured
    operations = {"training": (cost.flops / measured * samples, config.precision)}
    note = f"{samples:,} samples are {samples / pairs:.2g} epochs" if pairs else ""
    if sentences and (rows := text_rows(settings)):
        text_samples = config.steps * rows * config.gradient_accumulation_steps
        note += f"{', ' * bool(note)}{text_samples:,} text rows {text_samples / sentences:.2g} of the sentences"
    return StageCost(samples, 4 * weights, memory, operations, note=note)


def uses_query_bank(settings: PlanSettings) -> bool:
    return settings.loss.uses_queries


def text_rows(settings: PlanSettings) -> int:
    """Returns the text rows beside a micro-batch of pairs."""
    return settings.loss.sentences if settings.loss.w_llm and settings.sentences.sources else 0


def training_tokens(settings: PlanSettings, length: int, tokens_per_prompt: float) -> int:
    """Returns the tokens of a prompt that training keeps, of `length` with padding (training/thinning.py)."""
    loss, padding = settings.loss, settings.train.padding_tokens
    needs_all = settings.adapter.variant == "official" or loss.w_diffusion or (loss.w_prompt and loss.prompt == "kl")
    return length if needs_all or padding is None else min(length, round(tokens_per_prompt) + padding)


def training_step(settings: PlanSettings, batch_size: int, tokens_per_prompt: float):
    """Returns (adapter, a call that computes its loss on a batch with its text rows), on the meta device."""
    length, width, pooled = text_shapes(settings.models.diffusion)
    length = training_tokens(settings, length, tokens_per_prompt)
    unet = diffusion_model(settings.models.diffusion)["unet"]
    llm_width = 0
    if settings.loss.uses_projection:
        llm_width = language_model(settings.models.llm, settings.cache_llm.layers).config.get_text_config().hidden_size
    widths = {"teacher_width": llm_width, "pooled_width": pooled}
    with torch.device("meta"):
        adapter = SURAdapter(AdapterConfig(width, **widths, **asdict(settings.adapter))).train()
    layers = None
    if uses_query_bank(settings):
        count = settings.cache_queries.count
        layers = [
            CrossAttention.of_layer(layer, meta_tensor(count, layer.to_q.out_features)) for layer in cross_attention_layers(unet).values()
        ]
    loss = replace(settings.loss, llm="kl" if settings.loss.llm == "kl" else "words")  # a decoder costs nearly nothing
    loss = replace(loss, empty_prompt_prob=0.0, complex_prompt_prob=0.0, mask_padding=False)  # they cost nothing
    objective = Objective(loss, layers=layers, diffusion_loss=partial(_unet_call, unet))
    vector = meta_tensor(batch_size, pooled) if pooled else None
    embeds, latents = meta_tensor(batch_size, length, width), meta_tensor(batch_size, 2, *latent_shape(settings.models))
    batch = TrainingBatch(embeds, embeds, meta_tensor(batch_size, llm_width), latents, vector, vector)
    num_text = round(batch_size * text_rows(settings) / settings.train.batch_size)
    text = batch.rows(torch.arange(num_text, device="meta") % batch_size, "meta") if num_text else None
    return adapter, lambda: objective(adapter, batch, text=text)[0]


def _unet_call(unet, latents: Tensor, conditions: dict, *_) -> Tensor:
    """Calls the U-Net as the diffusion loss does; the cost of the rest of the loss is negligible."""
    embeds, pooled = conditions["prompt_embeds"], conditions["pooled_prompt_embeds"]
    added = None if pooled is None else {"text_embeds": pooled, "time_ids": meta_tensor(len(embeds), 6)}
    return unet(latents[:, 0], meta_tensor(len(embeds)), embeds, added_cond_kwargs=added).sample.mean()
