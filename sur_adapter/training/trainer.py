"""Trains the adapter from cached features alone: neither text encoder, VAE nor LLM is loaded, the U-Net only if its loss is asked for.

One process or many (accelerate): `batch` is of all of them together, and every one draws for the whole batch and takes its own rows, so
that the adapter is the same, but for rounding, however many there are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from time import perf_counter

import torch
from torch import Tensor
from tqdm import tqdm

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.io.prefetch import prefetch
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.training import checkpoint as checkpoints
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.distributed import DistributedContext, team
from sur_adapter.training.objective import Objective
from sur_adapter.training.training_step import Training


def fit(
    adapter: SURAdapter,
    objective: Objective,
    train: TrainingBatch,
    validation: TrainingBatch,
    work: WorkCache | None = None,
    tell: Callable[[dict], None] = lambda row: None,
    *,
    steps: int,
    batch: int,
    seed: int = 0,
    every: int = 50,
    device: str = "cpu",
    patience: int | None = None,
    checkpoint: int | None = 100,
    accumulation: int = 1,
    **how,
) -> tuple[list[dict], float]:
    """Returns (history, samples a second): a row every `every` steps, means since the last; `tell` gets each as it comes.

    batch: of one pass; a step is `accumulation` passes. patience: looks at the validation without a better one, after which training
    ends. Every `checkpoint` steps all that the next one depends on is kept in `work`, so that a training that was killed ends as it would
    have. how: what `Training` takes. Of several processes each calls this with the same arguments; `work` is the first one's.
    Raises ValueError where memory is short, and where the loss is no number any more.
    """
    crew, portion = team(device, batch)
    training = Training(adapter, objective, crew, portion, steps=steps, device=device, **how)
    state = checkpoints.resume(work, training.parts, portion.count)
    first, history, seen = state.get("step", 0), state.get("history", []), state.get("seen", [])
    for row in history:
        tell(row)
    start = perf_counter()
    last = first if patience and training.best.since >= patience else steps
    batches = _batches(train, range(first + 1, last + 1), seed, batch, accumulation, portion, device)
    bar = tqdm(batches, "train", initial=first, total=steps, disable=None if portion.rank == 0 else True)
    with enough_memory(device, batch):
        for step, passes in enumerate(bar, first + 1):
            torch.manual_seed(seed * 1_000_003 + step)
            torch.randint(len(train), (batch * accumulation,))  # the rows' own draw, so that what follows it is the same
            seen.append(training.step(passes))
            if step % every == 0 or step == steps:
                means = _means(seen, portion, step)
                history.append({"step": step} | means | training.look(validation, batch))
                tell(history[-1])
                seen = []
                bar.set_postfix(loss=f"{means['loss']:.4f}")
            if work and checkpoint and step % checkpoint == 0:
                checkpoints.keep(work, training.parts, step=step, history=history, seen=seen)
            if patience and training.best.since >= patience:
                break
    done = (history[-1]["step"] if history else first) - first
    training.end()
    return history, done * batch * accumulation / (perf_counter() - start)


def _batches(
    train: TrainingBatch, steps: range, seed: int, batch: int, passes: int, portion: DistributedContext, device: str
) -> Iterator[list[TrainingBatch]]:
    """The passes of each step: rows drawn by seed and step alone. For a GPU they are got ready ahead."""

    def drawn(step: int) -> list[TrainingBatch]:
        index = torch.randint(len(train), (batch * passes,), generator=torch.Generator().manual_seed(seed * 1_000_003 + step))
        return [train.rows(portion(train.together(part)), device) for part in index.split(batch)]

    return prefetch(map(drawn, steps)) if torch.device(device).type == "cuda" else map(drawn, steps)


def _means(seen: list[dict[str, Tensor]], portion: DistributedContext, step: int) -> dict[str, float]:
    """Of each number over some steps. ValueError if the loss is none."""
    columns = {key: portion.mean(torch.stack([row[key].float() for row in seen])).tolist() for key in seen[0]}
    means = {key: sum(column) / len(column) for key, column in columns.items()}
    if not isfinite(means["loss"]):
        raise ValueError(f"the loss is {means['loss']} before step {step}: lower train.lr, or set train.precision to fp32")
    return means


@contextmanager
def enough_memory(device: str, batch: int) -> Iterator[None]:
    """ValueError that says how to take less, where torch finds no memory."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ValueError(
            f"the memory of {device} does not hold a batch of {batch}: lower train.batch and raise train.accumulation by as much, "
            "or set train.gradient_checkpointing to true"
        ) from error
