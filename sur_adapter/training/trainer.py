"""Trains the adapter on cached features: no text encoder, VAE or LLM is loaded, and the U-Net only for the diffusion loss.

With several processes (accelerate), `batch_size` is that of all together: every process draws the random numbers of the whole batch and
takes its own rows, so the adapter is the same, up to rounding, for any number of processes.

On a CPU, each group of prompts is computed by one thread (group_threads.py), and so is each part of the optimizer's step, unless a loss
needs the prompts together.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.io.prefetch import prefetch
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models.torch_utils import autocast, single_thread
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.checkpoint import BestWeights, load_checkpoint, save_checkpoint
from sur_adapter.training.config import TrainConfig
from sur_adapter.training.distributed import DistributedContext
from sur_adapter.training.group_threads import GroupThreads, MapGroups, in_turn
from sur_adapter.training.metrics import mean_metrics
from sur_adapter.training.objective import Objective
from sur_adapter.training.optim import build_optimizers, lr_lambda
from sur_adapter.training.randomness import TEXT, step_generator

VALIDATION_BATCHES = 4


class PairDataset(Protocol):
    """What the trainer reads, pairs or text rows: a FeatureDataset, or a TrainingBatch of all rows."""

    def __len__(self) -> int: ...

    def rows(self, index: Tensor, device: str) -> TrainingBatch:
        """Reads rows (B,) as fp32 on the device."""

    def same_bucket(self, index: Tensor) -> Tensor:
        """Replaces rows (B,) so that all of them can share a batch."""


@dataclass
class StepInputs:
    """The micro-batches of one step, pairs with their text rows or None, and the generators from which their rows are already drawn."""

    micro_batches: list[tuple[TrainingBatch, TrainingBatch | None]]
    generator: torch.Generator
    text_generator: torch.Generator


class Trainer:
    """Trains an adapter. With several processes, each creates a Trainer with the same arguments.

    device: of this process. The history goes to the trackers of `accelerator`.
    """

    def __init__(self, adapter: SURAdapter, objective: Objective, config: TrainConfig, accelerator: Accelerator, device: str):
        self.adapter, self.objective, self.config, self.device = adapter.to(device).train(), objective, config, device
        self.accelerator = accelerator
        self.context = DistributedContext(accelerator.process_index, accelerator.num_processes)
        self.optimizers = build_optimizers(adapter, config.lr, config.optimizer, config.weight_decay, config.betas)
        self.lr_schedulers = [
            LambdaLR(o, lambda step: lr_lambda(step, config.steps, config.lr_scheduler, config.warmup_ratio)) for o in self.optimizers
        ]
        self.scaler = torch.amp.GradScaler(torch.device(device).type, enabled=config.precision == "fp16")
        self.ema = AveragedModel(adapter, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay)) if config.ema_decay else None
        self.best = BestWeights()
        self.stateful = {"adapter": adapter, "scaler": self.scaler, "best": self.best} | ({"ema": self.ema} if self.ema else {})
        self.stateful |= {f"optimizer {number}": optimizer for number, optimizer in enumerate(self.optimizers)}
        self.stateful |= {f"lr_scheduler {number}": lr_scheduler for number, lr_scheduler in enumerate(self.lr_schedulers)}
        self.loss_module = accelerator.prepare_model(LossModule(adapter, objective, self.context), device_placement=False)
        self.threads = None  # GroupThreads while it trains, if groups are computed side by side

    def fit(
        self, train: PairDataset, validation: PairDataset, cache: WorkCache | None = None, text: dict[str, PairDataset] | None = None
    ) -> tuple[list[dict], float]:
        """Trains to the last step. Returns the history, a row of mean metrics every `eval_steps` steps, and pairs per second.

        text: split -> text rows; None trains on the pairs alone, with the same random numbers.

        Every `checkpointing_steps` steps all that the next step depends on is saved in `cache` (the first process's), so a training that
        was killed continues from there and ends in the same weights. Raises ValueError if memory is short, or if the loss is not finite.
        """
        with self._group_threads():
            return self._fit(train, validation, cache, text)

    def _fit(
        self, train: PairDataset, validation: PairDataset, cache: WorkCache | None, text: dict[str, PairDataset] | None
    ) -> tuple[list[dict], float]:
        config = self.config
        state = load_checkpoint(cache, self.stateful, self.context.world_size)
        first, history, step_metrics = state.get("step", 0), state.get("history", []), state.get("step_metrics", [])
        for row in history:
            self._log(row)
        start = perf_counter()
        last = first if self._patience_exhausted() else config.steps
        batches = self._batches(train, text and text["train"], range(first + 1, last + 1))
        progress = tqdm(batches, "train", initial=first, total=config.steps, disable=None if self.context.rank == 0 else True)
        with friendly_memory_errors(self.device, config.batch_size):
            for step, inputs in enumerate(progress, first + 1):
                step_metrics.append(self.train_step(inputs))
                if step % config.eval_steps == 0 or step == config.steps:
                    means = mean_metrics(step_metrics, self.context, step)
                    history.append({"step": step} | means | self.validate(validation, text and text["validation"]))
                    self._log(history[-1])
                    step_metrics = []
                    progress.set_postfix(loss=f"{means['loss']:.4f}")
                if cache and config.checkpointing_steps and step % config.checkpointing_steps == 0:
                    save_checkpoint(cache, self.stateful, step=step, history=history, step_metrics=step_metrics)
                if self._patience_exhausted():
                    break
        steps = (history[-1]["step"] if history else first) - first
        self._load_final_weights()
        return history, steps * config.batch_size * config.gradient_accumulation_steps / (perf_counter() - start)

    def train_step(self, inputs: StepInputs) -> dict[str, Tensor]:
        """Runs one optimizer step on its micro-batches. Returns the loss, the gradient norm and each term, which stay on the device."""
        metrics = [self._backward(inputs, number) for number in range(len(inputs.micro_batches))]
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        gradient_norm = nn.utils.clip_grad_norm_(self.adapter.parameters(), self.config.max_grad_norm or float("inf"))
        steps = [partial(self.scaler.step, optimizer) for optimizer in self.optimizers]
        if self.threads:
            self.threads.run(steps)
        else:
            for take_step in steps:
                take_step()
        self.scaler.update()
        for lr_scheduler in self.lr_schedulers:
            lr_scheduler.step()
        self.adapter.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update_parameters(self.adapter)
        means = {key: sum(row[key] for row in metrics) / len(metrics) for key in metrics[0]}
        return {"loss": means.pop("loss"), "gradient_norm": gradient_norm} | means

    def _backward(self, inputs: StepInputs, number: int) -> dict[str, Tensor]:
        """Adds the gradients of a micro-batch. Processes exchange them after the last one."""
        (batch, text), accumulation_steps = inputs.micro_batches[number], len(inputs.micro_batches)
        no_sync = nullcontext() if number == accumulation_steps - 1 else self.accelerator.no_sync(self.loss_module)
        with no_sync, attention_kernels(self.device), autocast(self.device, self.config.precision):
            options = {"map_groups": self.threads.map} if self.threads else {}
            loss, terms = self.loss_module(batch, inputs.generator, text, inputs.text_generator, **options)
            self.scaler.scale(loss if accumulation_steps == 1 else loss / accumulation_steps).backward()
            if self.threads:
                self.threads.backward()
        return {"loss": loss.detach()} | terms

    @contextmanager
    def _group_threads(self) -> Iterator[None]:
        """Computes groups of prompts side by side, with all threads of torch, on a CPU that no other process of the training uses.

        Without groups, as with the U-Net of the diffusion loss, all threads share each operation.
        """
        whole = self.objective.needs_all_tokens(self.adapter.config.variant)
        if torch.device(self.device).type != "cpu" or self.context.world_size > 1 or whole:
            yield
            return
        context = partial(autocast, self.device, self.config.precision, share_casts=False)
        groups = self.objective.num_groups(self.config.batch_size)
        self.threads = GroupThreads(self.adapter.parameters(), torch.get_num_threads(), groups, context)
        try:
            with single_thread():
                yield
        finally:
            self.threads.close()
            self.threads = None

    @torch.no_grad()
    def validate(self, validation: PairDataset, text: PairDataset | None = None) -> dict[str, float]:
        """Returns the loss on up to four batches of pairs, and L_llm on as many of text rows; updates the best weights.

        The random numbers are the same each time. The best weights have the lowest validation_loss + w_llm · validation_llm.
        """
        if not len(validation):
            return {}
        model, config = self.ema.module if self.ema else self.adapter, self.objective.config
        model.eval()
        losses = {"validation_loss": self._mean_loss(validation, self.config.batch_size, lambda *batch: self.objective(model, *batch)[0])}
        if text is not None and len(text):
            losses["validation_llm"] = self._mean_loss(text, config.sentences, lambda *batch: self.objective.text_loss(model, *batch))
        model.train()
        total = losses["validation_loss"] + config.w_llm * losses.get("validation_llm", 0.0)
        self.best.update(total, model if self.config.save_best else None)
        return losses

    def _mean_loss(self, dataset: PairDataset, batch_size: int, loss: Callable[[TrainingBatch, torch.Generator], Tensor]) -> float:
        """Returns the mean loss of up to four batches. All processes get the same number: by it they decide when to stop."""
        generator = torch.Generator().manual_seed(0)
        batches = torch.arange(len(dataset)).split(batch_size)[:VALIDATION_BATCHES]
        losses = [loss(dataset.rows(index, self.device), generator).item() for index in batches]
        mean = sum(losses) / len(losses)
        return mean if self.context.world_size == 1 else self.context.all_reduce_mean(torch.tensor(mean, device=self.device)).item()

    def _batches(self, train: PairDataset, text: PairDataset | None, steps: range) -> Iterator[StepInputs]:
        """Yields the inputs of each step; those of the next ones are read meanwhile."""

        def draw(step: int) -> StepInputs:
            generators = [step_generator(self.config.seed, step, stream) for stream in (0, TEXT)]
            pairs = self._draw(train, self.config.batch_size, generators[0])
            sentences = self._draw(text, self.objective.config.sentences, generators[1]) if text is not None else [None] * len(pairs)
            return StepInputs(list(zip(pairs, sentences, strict=True)), *generators)

        return prefetch(map(draw, steps))

    def _draw(self, dataset: PairDataset, batch_size: int, generator: torch.Generator) -> list[TrainingBatch]:
        """Draws the rows of all micro-batches of a step, and reads those of this process."""
        index = torch.randint(len(dataset), (batch_size * self.config.gradient_accumulation_steps,), generator=generator)
        shards = [self.context.shard(dataset.same_bucket(rows)) for rows in index.split(batch_size)]
        return [dataset.rows(rows, self.device) for rows in shards]

    def _patience_exhausted(self) -> bool:
        return bool(self.config.patience) and self.best.evals_since_best >= self.config.patience

    def _log(self, row: dict) -> None:
        self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])

    def _load_final_weights(self) -> None:
        """Gives the adapter the weights to save: the best, the moving average, or the last ones."""
        if self.best.weights:
            self.adapter.load_state_dict(self.best.weights)
        elif self.ema:
            self.adapter.load_state_dict(self.ema.module.state_dict())
        self.adapter.eval()


class LossModule(nn.Module):
    """The objective as a forward pass, in which processes register the gradients to exchange. Frozen models are no part of it."""

    def __init__(self, adapter: SURAdapter, objective: Objective, context: DistributedContext):
        super().__init__()
        self.adapter, self.objective, self.context = adapter, objective, context

    def forward(
        self,
        batch: TrainingBatch,
        generator: torch.Generator,
        text: TrainingBatch | None,
        text_generator: torch.Generator,
        map_groups: MapGroups = in_turn,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(self.adapter, batch, generator, self.context, text, text_generator, map_groups=map_groups)


def attention_kernels(device: str) -> AbstractContextManager:
    """Disables the fused attention kernel on a CPU, where its backward pass doubles the time of a step."""
    return sdpa_kernel(SDPBackend.MATH) if torch.device(device).type == "cpu" else nullcontext()


@contextmanager
def friendly_memory_errors(device: str, batch_size: int) -> Iterator[None]:
    """Turns torch's out-of-memory errors into a ValueError that says how to use less."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ValueError(
            f"the memory of {device} does not hold a batch of {batch_size}: lower train.batch_size and raise "
            "train.gradient_accumulation_steps by as much, or set train.gradient_checkpointing to true"
        ) from error
