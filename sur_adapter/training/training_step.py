"""One training: all that a step changes, and the step. The loop around it is the trainer's."""

from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.models.torch_utils import autocast
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.checkpoint import BestWeights
from sur_adapter.training.distributed import DistributedContext
from sur_adapter.training.objective import Objective
from sur_adapter.training.optim import optimizers_of, share


class Training:
    """What a step changes, under the names of `parts`.

    precision: fp32, or bf16 or fp16 for the products alone (autocast); weights and their optimizer stay fp32.
    ema: decay of the mean of the weights over the steps, which then is what is validated and kept. keep: the `last` weights, or the `best`
    by validation. clip: of the gradient's norm; None: never.
    """

    def __init__(
        self,
        adapter: SURAdapter,
        objective: Objective,
        crew: Accelerator,
        portion: DistributedContext,
        *,
        steps: int,
        device: str,
        lr: float,
        precision: str = "fp32",
        optimizer: str = "muon",
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.98),
        schedule: str = "cosine",
        warmup: float = 0.1,
        clip: float | None = 1.0,
        ema: float | None = None,
        keep: str = "last",
    ):
        self.adapter, self.objective, self.crew, self.portion, self.device = adapter.to(device).train(), objective, crew, portion, device
        self.precision, self.clip, self.keep = precision, clip or float("inf"), keep
        self.optimizers = optimizers_of(adapter, lr, optimizer, weight_decay, betas)
        self.schedules = [LambdaLR(o, lambda done: share(done, steps, schedule, warmup)) for o in self.optimizers]
        self.scaler = torch.amp.GradScaler(torch.device(device).type, enabled=precision == "fp16")
        self.best = BestWeights()
        self.average = AveragedModel(adapter, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
        self.parts = {"adapter": adapter, "scaler": self.scaler, "best": self.best} | ({"average": self.average} if ema else {})
        self.parts |= {f"optimizer {k}": part for k, part in enumerate(self.optimizers)}
        self.parts |= {f"schedule {k}": part for k, part in enumerate(self.schedules)}
        self.watched = crew.prepare_model(Watched(adapter, objective, portion), device_placement=False)

    def step(self, passes: list[TrainingBatch]) -> dict[str, Tensor]:
        """One step on some passes: the loss, the gradient's norm and each term, which stay on the device."""
        found = [self._backward(rows, pause=rows is not passes[-1], of=len(passes)) for rows in passes]
        for part in self.optimizers:
            self.scaler.unscale_(part)
        norm = nn.utils.clip_grad_norm_(self.adapter.parameters(), self.clip)
        for part in self.optimizers:
            self.scaler.step(part)
        self.scaler.update()
        for part in self.schedules:
            part.step()
        self.adapter.zero_grad(set_to_none=True)
        if self.average:
            self.average.update_parameters(self.adapter)
        loss, *terms = (sum(row[key] for row in found) / len(found) for key in found[0])
        return {"loss": loss, "gradient_norm": norm} | dict(zip(list(found[0])[1:], terms, strict=True))

    def _backward(self, rows: TrainingBatch, pause: bool, of: int) -> dict[str, Tensor]:
        """The gradients of one pass, added to those that are there; processes exchange them after the last."""
        quiet = self.crew.no_sync(self.watched) if pause else nullcontext()
        with quiet, attention(self.device), autocast(self.device, self.precision):
            total, terms = self.watched(rows)
            self.scaler.scale(total if of == 1 else total / of).backward()
        return {"loss": total.detach()} | terms

    @torch.no_grad()
    def look(self, validation: TrainingBatch, batch: int) -> dict[str, float]:
        """The loss on up to four batches that are never trained on, with the same noise each time."""
        if not len(validation):
            return {}
        judged = self.average.module if self.average else self.adapter
        judged.eval()
        torch.manual_seed(0)
        parts = torch.arange(len(validation)).split(batch)[:4]
        losses = [self.objective(judged, validation.rows(rows, self.device))[0].item() for rows in parts]
        judged.train()
        value = sum(losses) / len(losses)
        if self.portion.count > 1:  # all go by the same number, whatever their rounding
            value = self.portion.mean(torch.tensor(value, device=self.device)).item()
        self.best.look(value, judged if self.keep == "best" else None)
        return {"validation_loss": value}

    def end(self) -> None:
        """The adapter gets the weights to keep."""
        if self.best.weights:
            self.adapter.load_state_dict(self.best.weights)
        elif self.average:
            self.adapter.load_state_dict(self.average.module.state_dict())
        self.adapter.eval()


class Watched(nn.Module):
    """The objective as a forward pass, which is where processes watch for gradients to exchange. What is frozen is no part of it."""

    def __init__(self, adapter: SURAdapter, objective: Objective, portion: DistributedContext):
        super().__init__()
        self.adapter, self.objective, self.portion = adapter, objective, portion

    def forward(self, rows: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(self.adapter, rows, self.portion)


def attention(device: str) -> AbstractContextManager:
    """On a CPU attention is spelt out: the fused kernel's way back takes twice the step's time."""
    return sdpa_kernel(SDPBackend.MATH) if torch.device(device).type == "cpu" else nullcontext()
