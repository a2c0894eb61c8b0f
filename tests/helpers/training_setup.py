"""Small parts for the tests of training: a U-Net, query banks, cached features, an adapter, an objective, a training."""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn

from helpers.stages import run_stage
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.features.query_bank import save_query_bank
from sur_adapter.features.store import write_features
from sur_adapter.models.stable_diffusion import cross_attention_layers
from sur_adapter.training import losses as loss
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.config import LossConfig, TrainConfig
from sur_adapter.training.diffusion_loss import DiffusionLoss
from sur_adapter.training.distributed import create_accelerator
from sur_adapter.training.objective import Objective
from sur_adapter.training.trainer import Trainer

SIZES = {"block_out_channels": (16, 32), "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 2, "norm_num_groups": 8}
ALL = {"w_diffusion": 1.0, "w_prompt": 1.0, "w_llm": 0.1, "llm": "kl", "projection": "trained"}
TEXT_ONLY = ALL | {"w_diffusion": 0.0}
WORDS = TEXT_ONLY | {"w_llm": 1.0, "llm": "words", "sentences": 8}
TRAIN = {"steps": 6, "batch_size": 8, "lr": 0.001, "eval_steps": 3, "device": "cpu"}
BLOCKS = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}


def unet(**more) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(8, **BLOCKS, **SIZES, **more).eval().requires_grad_(False)


def scheduler(**more) -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **more)


def layers(unet, n: int = 40) -> list[loss.CrossAttention]:
    torch.manual_seed(1)
    modules = cross_attention_layers(unet).values()
    return [loss.CrossAttention.of_layer(module, torch.randn(n, module.to_q.out_features)) for module in modules]


def objective(
    w_diffusion: float, w_prompt: float, w_llm: float, *, layers=None, unet=None, scheduler=None, empty_prompt=None, **config
) -> Objective:
    """The prompt loss is `attention` with `layers`, else `kl`; that of the LLM is `kl`. config: other keys of params.yaml: loss."""
    config = {"llm": "kl", "projection": "trained"} | config
    loss_config = LossConfig(w_diffusion, w_prompt, w_llm, prompt="attention" if layers else "kl", **config)
    diffusion_loss = DiffusionLoss(loss_config, unet, scheduler, {"scaling_factor": 1.0}) if unet else None
    return Objective(loss_config, layers=layers, diffusion_loss=diffusion_loss, empty_prompt=empty_prompt)


def fit(adapter: SURAdapter, objective: Objective, train, validation, cache=None, tracker=None, text=None, **config) -> list[dict]:
    """Trains on the CPU; the history. config: keys of params.yaml: train. tracker: a GeneralTracker that gets the history too.

    text: split -> text rows.
    """
    settings = TrainConfig(**config)
    accelerator = create_accelerator("cpu", settings.batch_size, log_with=tracker)
    accelerator.init_trackers("test")
    return Trainer(adapter, objective, settings, accelerator, "cpu").fit(train, validation, cache, text)[0]


def features(n: int = 24, **more) -> TrainingBatch:
    torch.manual_seed(2)
    return TrainingBatch(torch.randn(n, 9, 32), torch.randn(n, 9, 32), torch.randn(n, 20), torch.randn(n, 2, 4, 8, 8), **more)


def sentences(n: int = 24, seed: int = 5) -> TrainingBatch:
    """Text rows: features of sentences and answers, hidden states of the answers, and lengths of both."""
    torch.manual_seed(seed)
    embeds, lengths = torch.randn(2, n, 9, 32), torch.randint(2, 9, (2, n))
    return TrainingBatch(*embeds, torch.randn(n, 20), simple_length=lengths[0], complex_length=lengths[1])


def adapter(trained: bool = False) -> SURAdapter:
    """trained: add noise, so that it is no longer the identity."""
    torch.manual_seed(3)
    made = SURAdapter(AdapterConfig(32, 20, heads=4))
    if trained:
        nn.init.normal_(made.block.g.weight, std=0.1)
    return made


def gradients(made: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients that are larger than rounding errors."""
    return {name: p.grad for name, p in made.named_parameters() if p.grad is not None and p.grad.norm() > 1e-6}


def cached(folder: Path, train: int = 48, validation: int = 8) -> list[Path]:
    """Writes random features for the miniature's diffusion model; the stage's paths: clip, llm, vae, queries, out, log."""
    numbers = np.random.default_rng(0)
    for split, n in (("train", train), ("validation", validation)):
        if not n:
            continue
        ids = [f"{split}{k}" for k in range(n)]
        embeds = {name: numbers.standard_normal((n, 40, 128)).astype("float16") for name in ("simple", "complex")}
        write_features(folder / f"clip/{split}-000000.parquet", ids, embeds, {"base_model": "models/miniature/stable-diffusion"})
        states = {"layer_6": numbers.standard_normal((n, 20)).astype("float16")}
        write_features(folder / f"llm/{split}-000000.parquet", ids, states, {"llm": "none"})
        latents = numbers.standard_normal((n, 2, 4, 8, 8)).astype("float16")
        write_features(folder / f"vae/{split}-000000.parquet", ids, {"latents": latents})
    attention = loss.CrossAttention(
        4, *(torch.from_numpy(numbers.standard_normal(s)) for s in ((40, 64), (64, 128), (64, 128), (64, 64), (64,)))
    )
    save_query_bank({"one": attention}, folder / "queries")
    return [folder / name for name in ("clip", "llm", "vae", "queries", "adapter", "log")]


def cached_sentences(folder: Path, min_logprob: list[float], validation: int = 8, **more) -> Path:
    """Writes random features of sentences, one for each log-probability of an answer; the folder. more: other columns, (d,) each."""
    numbers = np.random.default_rng(1)
    for split, logprobs in (("train", min_logprob), ("validation", [-0.1] * validation)):
        n, about = len(logprobs), {"base_model": "models/miniature/stable-diffusion", "llm": "none"}
        columns = {name: numbers.standard_normal((n, 40, 128)).astype("float16") for name in ("simple", "complex")}
        columns |= {f"{name}_length": numbers.integers(4, 30, n).astype("int32") for name in ("simple", "complex")}
        columns |= {"layer_6": numbers.standard_normal((n, 20)).astype("float16"), "min_logprob": np.array(logprobs, "float32")} | more
        write_features(folder / f"{split}-000000.parquet", [f"{split}{k}" for k in range(n)], columns, about)
    return folder


def train_stage(paths: list[Path], sentences: Path | None, params: dict) -> None:
    """Runs the stage with text rows, for the paths of `cached` and of `cached_sentences`."""
    options = dict(zip(("clip", "llm", "vae", "queries", "out", "reports"), paths, strict=True))
    run_stage("train", params, **options, sentences=sentences)


def stage_params(loss: dict, train: dict) -> dict:
    """The sections of params.yaml that the stage reads, for the features of `cached`."""
    models = {"diffusion": "models/miniature/stable-diffusion", "llm": "none", "resolution": 64}
    return {"models": models, "adapter": {"heads": 4}, "loss": loss, "train": TRAIN | train}


def stage_command(paths: list[Path]) -> list[str]:
    """The command line of the stage, for the paths of `cached`."""
    options = zip(("clip", "llm", "vae", "queries", "out", "reports"), paths, strict=True)
    return [sys.executable, "-m", "stages", "train", *(word for name, path in options for word in (f"--{name}", str(path)))]
