"""Measures one training step of the miniature's default on a CPU: milliseconds, and the share of the matmul rate that is used.

    python -m experiments.benchmarks.train_step     # writes train-step-cpu.json beside this file

The features are random, with lengths as in the miniature: pairs of short sentences and keyword prompts, longer text rows. `all tokens` is
the step without the savings of training: no padding is left out, and 32 queries are sampled of each layer. Operations are torch's count,
forward and backward, plus the Newton-Schulz steps of Muon. The rate is that of products of 1,024 with as many threads, in the dtype that
`precision: bf16` has on this CPU.
"""

import json
import statistics
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks.train import matmul_rate
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.features.query_bank import CrossAttention
from sur_adapter.models.torch_utils import compute_dtype, keep_freed_memory
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.config import LossConfig, TrainConfig
from sur_adapter.training.objective import Objective
from sur_adapter.training.trainer import Trainer

WIDTH, TOKENS, HEADS, ROWS, STEPS, PAIRS, PADDING = 128, 40, 4, 512, 20, 32, 4
LAYERS = (64, 128, 128, 128, 64, 64, 128)  # widths of the miniature's cross-attention layers
ALL_TOKENS = ({"num_queries": 32}, {"padding_tokens": None})
FORMS = {  # name: (text rows, keys of params.yaml: loss, of train)
    "32 pairs": (0, {}, {}),
    "32 pairs + 96 text rows": (96, {}, {}),
    "32 pairs + 96 text rows, all tokens": (96, *ALL_TOKENS),
}


def random_rows(shortest: int, longest: int) -> TrainingBatch:
    """Returns random features of sentences of so many tokens, and of keyword prompts."""
    embeds = [torch.randn(ROWS, TOKENS, WIDTH).half() for _ in range(2)]
    lengths = [torch.randint(*bounds, (ROWS,)) for bounds in ((shortest, longest + 1), (6, 28))]
    return TrainingBatch(*embeds, None, simple_length=lengths[0], complex_length=lengths[1])


def random_layers(dtype: torch.dtype) -> list[CrossAttention]:
    shapes = [((2000, c), (c, WIDTH), (c, WIDTH), (c, c), (c,)) for c in LAYERS]
    return [CrossAttention(HEADS, *(torch.randn(shape).to(dtype) / shape[-1] ** 0.5 for shape in layer)) for layer in shapes]


def muon_flops(adapter: nn.Module, iterations: int = 5) -> float:
    """Counts the operations of Newton-Schulz: for a matrix (m, n), m <= n, X Xᵀ and B X of 2m²n each and A A of 2m³, every iteration."""
    sizes = [sorted(p.shape) for p in adapter.parameters() if p.ndim == 2]
    return iterations * sum(4 * m * m * n + 2 * m**3 for m, n in sizes)


def measure(num_text: int, loss: dict, train: dict) -> dict:
    """Measures the steps of one form, the median of STEPS."""
    torch.manual_seed(0)
    pairs, text = random_rows(7, 20), random_rows(10, 27) if num_text else None
    config = LossConfig(0.0, 1.0, 1.0 if num_text else 0.0, sentences=num_text or 96, complex_prompt_prob=0.2, **loss)
    settings = TrainConfig(**{"steps": STEPS, "batch_size": PAIRS, "lr": 6e-3, "precision": "bf16", "padding_tokens": PADDING} | train)
    adapter = SURAdapter(AdapterConfig(WIDTH, 0, heads=HEADS))
    nn.init.normal_(adapter.block.g.weight, std=0.01)  # weights of zero would save the backward pass
    objective = Objective(config, layers=random_layers(compute_dtype("cpu", "bf16")), padding_tokens=settings.padding_tokens)
    trainer = Trainer(adapter, objective, settings, Accelerator(cpu=True, mixed_precision="no"), "cpu")
    times, inputs = [], list(trainer._batches(pairs, text, range(1, STEPS + 1)))
    with FlopCounterMode(display=False) as counter:
        trainer._backward(inputs[0], 0)
    with trainer._group_threads():
        for step in inputs:
            started = time.perf_counter()
            trainer.train_step(step)
            times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    operations = counter.get_total_flops() + muon_flops(adapter)
    return {"ms": round(1000 * seconds, 1), "gigaflop": round(operations / 1e9, 2), "teraflops": operations / seconds / 1e12}


def main() -> None:
    keep_freed_memory()
    dtype = compute_dtype("cpu", "bf16")
    rate = matmul_rate("cpu", dtype)
    figures = {"device": f"CPU, {torch.get_num_threads()} threads, {str(dtype).removeprefix('torch.')}", "torch": torch.__version__}
    figures |= {"matmul_teraflops": round(rate, 3), "forms": {}}
    for name, form in FORMS.items():
        result = measure(*form)
        result["share_of_matmul_rate"] = round(result.pop("teraflops") / rate, 3)
        figures["forms"][name] = result
        print(name, json.dumps(result), flush=True)
    Path(__file__).with_name("train-step-cpu.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
