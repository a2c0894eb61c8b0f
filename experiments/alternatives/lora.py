"""A LoRA of the text encoder (peft), trained on the pairs of a finished run: what a user may train in place of the adapter.

The loss is that of params.yaml, without the language model:

    w_diffusion · ‖ε − UNet(z_t, t, E'(p_s))‖²  +  w_prompt · D(E(p_c), E'(p_s))        E' = E with the LoRA; D: losses.prompt_attention

Its batches hold the pairs that a training of the adapter with the same seed draws. With `loss.complex_prompt_prob`, the keyword prompt
replaces the plain one in D, and with `loss.empty_prompt_prob` the empty prompt replaces both: a LoRA also changes the unconditional branch,
which an attached adapter leaves as it is.
"""

import json
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from sur_adapter.config import Params
from sur_adapter.data.prompts.cleaning import effective_prompt
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.shards import read_table
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.stable_diffusion import TextEncoders, load_pipeline
from sur_adapter.models.torch_utils import autocast, resolve_device
from sur_adapter.training.config import LossConfig, TrainConfig
from sur_adapter.training.dataset import FeatureDataset
from sur_adapter.training.distributed import DistributedContext
from sur_adapter.training.objective import Objective
from sur_adapter.training.optim import lr_lambda
from sur_adapter.training.randomness import step_generator
from sur_adapter.training.setup import build_objective, load_data
from sur_adapter.training.trainer import VALIDATION_BATCHES, attention_kernels, friendly_memory_errors

RANK = 8  # and alpha, so that the scale is 1
TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]  # of each attention layer of a CLIP text encoder
PATHS = ("pairs", "clip", "vae", "queries", "out")


class LoRA:
    """The text encoder of a model with a LoRA that changes nothing yet. seed: of its weights.

    Raises ValueError for a model with several text encoders.
    """

    def __init__(self, model: str, seed: int, device: str):
        encoders = TextEncoders(model, device)
        if len(encoders.modules) > 1:
            raise ValueError(
                f"params.yaml: models.diffusion is {model!r}, which has several text encoders: the LoRA is for models with one"
            )
        self.model, self.device, (self.tokenizer,) = model, device, encoders.tokenizers
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS, init_lora_weights="gaussian")  # as in diffusers' scripts
        with torch.random.fork_rng(devices=[]):  # layers are initialised from the default generator, and take no other
            torch.default_generator.manual_seed(seed)
            self.encoder = get_peft_model(encoders.modules["text_encoder"], config).eval()

    def parameters(self) -> list[nn.Parameter]:
        """Lists the weights that are trained."""
        return [weights for weights in self.encoder.parameters() if weights.requires_grad]

    def encode(self, prompts: list[str]) -> Tensor:
        """Returns E' of prompts, (B, L, d)."""
        options = {"padding": "max_length", "truncation": True, "max_length": self.tokenizer.model_max_length, "return_tensors": "pt"}
        return self.encoder(self.tokenizer(prompts, **options).input_ids.to(self.device))[0]

    def save(self, out: Path) -> None:
        """Writes peft's files to `out`/lora, and to `out`/model the whole diffusion model with the LoRA merged into its text encoder.

        The merged weights are also those of this object: it cannot be trained on.
        """
        self.encoder.save_pretrained(out / "lora", save_embedding_layers=False)
        pipe = load_pipeline(self.model)
        pipe.text_encoder = self.encoder.merge_and_unload()
        pipe.save_pretrained(out / "model")


@dataclass
class Pairs:
    """The pairs of a split: cached features, and the (plain, keyword) prompts of each."""

    features: FeatureDataset
    prompts: list[tuple[str, str]]


def load_pairs(features: FeatureDataset, prompts: dict[str, tuple[str, str]]) -> Pairs:
    """Finds the prompts of a split. prompts: id -> (plain, keyword). Raises ValueError if a pair has none."""
    ids = [features.split.stores[0].ids[row] for row in features.split.index]
    if missing := [key for key in ids if key not in prompts]:
        raise ValueError(f"the table of pairs lacks {len(missing)} of {len(ids)} cached pairs ({missing[0]}, …): run `dvc repro`")
    return Pairs(features, [prompts[key] for key in ids])


def pair_loss(lora: LoRA, pairs: Pairs, index: Tensor, objective: Objective, generator: torch.Generator) -> Tensor:
    """Computes the loss of rows (B,)."""
    config, batch = objective.config, pairs.features.rows(index, lora.device)
    texts, target = [pairs.prompts[row % len(pairs.prompts)] for row in index.tolist()], batch.complex  # mirror images come second
    replaced, emptied = (
        torch.rand(len(index), generator=generator) < probability
        for probability in (config.complex_prompt_prob if config.w_prompt else 0.0, config.empty_prompt_prob)
    )  # (B,) each
    chosen = ["" if e else keyword if r else plain for (plain, keyword), r, e in zip(texts, replaced, emptied, strict=True)]
    if emptied.any():
        target = torch.where(emptied.to(target.device)[:, None, None], objective.empty_prompt, target)
    embeds = lora.encode(chosen)
    loss = embeds.new_zeros(())
    if config.w_prompt:
        s = objective.attention.sample(config.num_queries, generator)
        with torch.no_grad():
            o = objective.attention.attend(s, target)
        loss = loss + config.w_prompt * objective.attention.losses([(o, objective.attention.attend(s, embeds))], [slice(None)])[0]
    if config.w_diffusion:
        conditions = [{"prompt_embeds": x} for x in (embeds, target)]
        loss = loss + config.w_diffusion * objective.diffusion_loss(batch.latents, *conditions, generator, DistributedContext())
    return loss


def fit(lora: LoRA, pairs: dict[str, Pairs], objective: Objective, config: TrainConfig) -> list[dict]:
    """Trains with AdamW. pairs: of "train" and "validation". Returns the history: rows of step, mean loss, and validation loss."""
    parameters = lora.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    lr_scheduler = LambdaLR(optimizer, lambda step: lr_lambda(step, config.steps, config.lr_scheduler, config.warmup_ratio))
    with friendly_memory_errors(lora.device, config.batch_size), attention_kernels(lora.device):
        history, losses = [{"step": 0} | validate(lora, pairs["validation"], objective, config)], []
        for step in tqdm(range(1, config.steps + 1), "train", disable=None):
            losses.append(_train_step(lora, pairs["train"], objective, config, step))
            nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or float("inf"))
            optimizer.step()
            optimizer.zero_grad()
            lr_scheduler.step()
            if step % config.eval_steps == 0 or step == config.steps:
                mean = {"loss": torch.stack(losses).mean().item()}
                history.append({"step": step} | mean | validate(lora, pairs["validation"], objective, config))
                losses = []
    return history


def _train_step(lora: LoRA, pairs: Pairs, objective: Objective, config: TrainConfig, step: int) -> Tensor:
    """Adds the gradients of a step's micro-batches; returns their mean loss. The rows are those that Trainer draws."""
    generator, parts = step_generator(config.seed, step), config.gradient_accumulation_steps
    index = torch.randint(len(pairs.features), (config.batch_size * parts,), generator=generator)
    total = torch.zeros((), device=lora.device)
    for rows in index.split(config.batch_size):
        with autocast(lora.device, config.precision):
            loss = pair_loss(lora, pairs, pairs.features.same_bucket(rows), objective, generator) / parts
        loss.backward()
        total += loss.detach()
    return total


@torch.no_grad()
def validate(lora: LoRA, pairs: Pairs, objective: Objective, config: TrainConfig) -> dict[str, float]:
    """Returns the mean loss of up to four batches, with the same random numbers each time; {} without pairs."""
    if not len(pairs.features):
        return {}
    generator, features = torch.Generator().manual_seed(0), pairs.features
    batches = torch.arange(len(features)).split(config.batch_size)[:VALIDATION_BATCHES]
    with autocast(lora.device, config.precision):
        losses = [pair_loss(lora, pairs, features.same_bucket(rows), objective, generator).item() for rows in batches]
    return {"validation_loss": sum(losses) / len(losses)}


def train(paths: dict[str, Path], models: ModelsConfig, loss: LossConfig, config: TrainConfig) -> None:
    """Trains a LoRA and writes `lora`, `model` and lora.json to paths["out"]. paths: of PATHS.

    Raises ValueError for fp16, whose gradients would have to be scaled.
    """
    if config.precision == "fp16":
        raise ValueError("params.yaml: train.precision is fp16, and the LoRA is trained without scaled gradients: set it to bf16 or fp32")
    data = load_data(paths["clip"], paths["clip"], paths["vae"], None, loss, models)
    device = resolve_device(config.device)
    lora = LoRA(models.diffusion, config.seed, device)
    table = read_table(paths["pairs"])
    kept = table[table["dropped"].isna()].to_dict("records")  # a dropped candidate may have the id of a kept one
    prompts = {row["id"]: (row["simple_prompt"], effective_prompt(row)) for row in kept}
    pairs = {name: load_pairs(features, prompts) for name, features in data.splits.items()}
    if not len(pairs["train"].features):
        raise ValueError("the cache holds no pair to train on: loosen the thresholds of params.yaml: filter, or lower filter.test")
    history = fit(lora, pairs, build_objective(loss, models, paths["queries"], config, device), config)
    trainable = sum(weights.numel() for weights in lora.parameters())
    lora.save(paths["out"])
    about = {"parameters": trainable, "history": history}
    atomic_write_text(paths["out"] / "lora.json", json.dumps(about, indent=1) + "\n")


def main(argv: list[str], read: Callable[[], Params] = Params.read) -> None:
    """Runs the command `lora`. Raises ValueError or FileNotFoundError, one sentence, for bad input."""
    parser = ArgumentParser("python -m experiments.alternatives.command lora", description="Trains a LoRA of the text encoder.")
    for name in PATHS:
        parser.add_argument(f"--{name}", type=Path, required=True)
    args, params = parser.parse_args(argv), read()
    config, loss = params.section("train", TrainConfig), params.section("loss", LossConfig)
    train(vars(args), params.section("models", ModelsConfig), loss, config)
