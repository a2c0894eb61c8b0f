"""Benchmarks training steps: ours, on cached features, against the work of the published loop, on one machine in one run.

    python -m experiments.benchmarks.train            # models of Stable Diffusion 1.5's sizes, 512 pixels, on a GPU: train-cuda.json
    python -m experiments.benchmarks.train --small    # the miniature's models on a CPU: train-cpu.json

The weights of the large form are random, which changes the results but not the cost. Each form runs in the real Trainer. The naive forms
encode both prompts by CLIP and the image by the VAE in every step, as the published code does; `published` also detaches the text features
from the diffusion loss as that code does, which saves the backward pass through the U-Net; `restored` does not. For each form: samples per
second, peak memory on a GPU, operations per sample (torch's counter, forward and backward), their share of the matmul rate measured here,
and the share of the time in which the GPU had no kernel to run.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.features.query_bank import CrossAttention
from sur_adapter.models import torch_utils
from sur_adapter.models.stable_diffusion import cross_attention_layers
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.config import LossConfig, TrainConfig
from sur_adapter.training.diffusion_loss import DiffusionLoss
from sur_adapter.training.objective import Objective
from sur_adapter.training.trainer import Trainer, attention_kernels

MINIATURE = "models/miniature/stable-diffusion"
PAIRS = 256
OURS = {"optimizer": "muon", "precision": "bf16", "lr": 3e-4}
PUBLISHED = {"optimizer": "adamw", "precision": "fp16", "lr": 1e-5, "weight_decay": 1e-2, "betas": (0.9, 0.999), "lr_scheduler": "constant"}
ONE_BY_FOUR = {"batch_size": 1, "gradient_accumulation_steps": 4}
PAPER = {"w_diffusion": 1.0, "w_prompt": 1e-5, "w_llm": 1e-5, "llm": "kl"}
ALL = {"w_diffusion": 1.0, "w_prompt": 1.0, "w_llm": 0.01, "llm": "kl"}
TEXT_ONLY = ALL | {"w_diffusion": 0.0}

SMALL_FORMS = {  # name: (weights of the loss, naive, options of the U-Net, TrainConfig)
    "words alone": (TEXT_ONLY, False, {}, OURS | {"batch_size": 64, "steps": 30}),
    "words alone, naive": (TEXT_ONLY, True, {}, OURS | {"batch_size": 64, "steps": 6}),
    "all terms": (ALL, False, {}, OURS | {"batch_size": 64, "steps": 3}),
    "all terms, naive": (ALL, True, {}, OURS | {"batch_size": 64, "steps": 3}),
}
FORMS = {
    "words alone, 64": (TEXT_ONLY, False, {}, OURS | {"batch_size": 64, "steps": 100}),
    "all terms, 16": (ALL, False, {}, OURS | {"batch_size": 16, "steps": 20}),
    "all terms, 16, channels last": (ALL, False, {"channels_last": True}, OURS | {"batch_size": 16, "steps": 20}),
    "all terms, 64, checkpointing": (ALL, False, {"gradient_checkpointing": True}, OURS | {"batch_size": 64, "steps": 8}),
    "all terms, 1 x 4": (ALL, False, {}, OURS | ONE_BY_FOUR | {"steps": 20}),
    "published, 1 x 4": (PAPER, "detached", {}, PUBLISHED | ONE_BY_FOUR | {"steps": 20}),
    "restored, 1 x 4": (PAPER, True, {}, PUBLISHED | ONE_BY_FOUR | {"steps": 20}),
}


class Inline:
    """A dataset that encodes each batch: the images by the VAE, both prompts by CLIP."""

    def __init__(self, models, dtype: torch.dtype, pixels: int):
        self.vae, self.text = (nn.Module.to(part, models.device, dtype) for part in (models.vae, models.text))
        self.pixels = torch.randint(256, (PAIRS, 3, pixels, pixels), dtype=torch.uint8)
        self.ids = torch.randint(self.text.config.vocab_size, (2, PAIRS, self.text.config.max_position_embeddings))
        self.teacher = torch.randn(PAIRS, models.teacher).half()

    same_bucket = TrainingBatch.same_bucket

    def __len__(self) -> int:
        return PAIRS

    @torch.no_grad()
    def rows(self, index: torch.Tensor, device: str) -> TrainingBatch:
        pixels = self.pixels[index].to(device).to(self.vae.dtype) / 127.5 - 1
        moments = self.vae.encode(pixels).latent_dist
        embeds = [self.text(ids[index].to(device))[0].float() for ids in self.ids]
        return TrainingBatch(*embeds, self.teacher[index].to(device).float(), torch.stack([moments.mean, moments.logvar], 1).float())


class DetachedDiffusionLoss(DiffusionLoss):
    """The published diffusion loss: it is computed, and trains nothing."""

    def __call__(self, moments, adapted, *rest):
        return super().__call__(moments, adapted | {"prompt_embeds": adapted["prompt_embeds"].detach()}, *rest)


def load_models(small: bool) -> SimpleNamespace:
    """Loads the frozen models onto the device they run on."""
    torch.manual_seed(0)
    device = "cpu" if small else "cuda"
    if small:
        unet, vae, text = (
            cls.from_pretrained(MINIATURE, subfolder=name)
            for cls, name in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"), (CLIPTextModel, "text_encoder"))
        )
    else:
        blocks, ways = [128, 256, 512, 512], {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 49408}
        with torch.device(device):
            unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # the other sizes are the class's defaults
            vae = AutoencoderKL(**ways, block_out_channels=blocks, layers_per_block=2)
            text = CLIPTextModel(CLIPTextConfig(**sizes))
    for part in (unet, vae, text):
        nn.Module.to(part.eval().requires_grad_(False), device)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return SimpleNamespace(unet=unet, vae=vae, text=text, scheduler=scheduler, device=device, teacher=256 if small else 5120)


def build_objective(
    m, weights: dict, naive: bool | str, dtype: torch.dtype, *, channels_last: bool = False, gradient_checkpointing: bool = False
):
    """Builds the objective of a form, with the U-Net in `dtype`. The prompt loss is `attention` for ours, `kl` for the published one."""
    nn.Module.to(m.unet, dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    (m.unet.enable_gradient_checkpointing if gradient_checkpointing else m.unet.disable_gradient_checkpointing)()
    layers = None if weights is PAPER else [_layer(module) for module in cross_attention_layers(m.unet).values()]
    config = LossConfig(**weights, prompt="attention" if layers else "kl")
    diffusion_loss = (DetachedDiffusionLoss if naive == "detached" else DiffusionLoss)(config, m.unet, m.scheduler, {})
    return Objective(config, layers=layers, diffusion_loss=diffusion_loss)


def _layer(module) -> CrossAttention:
    q = torch.randn(2000, module.to_q.out_features).to(module.to_k.weight)
    return CrossAttention.of_layer(module, q)


def measure(m, small: bool, weights: dict, naive: bool | str, unet: dict, config: dict) -> dict:
    """Measures one form."""
    dtype = torch_utils.compute_dtype(m.device, config["precision"])
    for part in (m.vae, m.text):
        nn.Module.to(part, m.device if naive else "cpu")  # a form that does not use them does not hold them in GPU memory
    tokens, width, side = m.text.config.max_position_embeddings, m.text.config.hidden_size, 8 if small else 64
    if naive:
        pairs = Inline(m, dtype, 64 if small else 512)
    else:
        embeds = [torch.randn(PAIRS, tokens, width).half() for _ in range(2)]
        pairs = TrainingBatch(*embeds, torch.randn(PAIRS, m.teacher).half(), torch.randn(PAIRS, 2, 4, side, side).half())
    objective = build_objective(m, weights, naive, dtype, **unet)
    adapter = SURAdapter(AdapterConfig(width, m.teacher, heads=4 if small else 8)).to(m.device)
    nn.init.normal_(adapter.block.g.weight, std=0.01)  # weights of zero would save the backward pass
    no_validation = TrainingBatch(*(torch.empty(0, 1) for _ in range(3)))
    accelerator = Accelerator(cpu=m.device == "cpu", mixed_precision="no")

    def train(steps: int = config["steps"]) -> float:
        settings = TrainConfig(**config | {"steps": steps, "eval_steps": steps, "checkpointing_steps": None})
        return Trainer(adapter, objective, settings, accelerator, m.device).fit(pairs, no_validation)[1]

    train(steps=2)  # warm-up
    cuda = m.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    figures = {
        "batch": config["batch_size"],
        "accumulation": config.get("gradient_accumulation_steps", 1),
        "precision": config["precision"],
    }
    figures["samples_per_second"] = round(train(), 2)
    if cuda:
        figures["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        figures["gpu_idle"] = round(gpu_idle_share(lambda: train(steps=5)), 3)
    figures["teraflop_per_sample"] = round(flops(objective, adapter, pairs, m.device, config["precision"]) / 1e12, 5)
    rate = figures["samples_per_second"] * figures["teraflop_per_sample"]
    figures["share_of_matmul_rate"] = round(rate / m.rates[config["precision"]], 3)
    return figures


def flops(objective: Objective, adapter: SURAdapter, pairs, device: str, precision: str) -> float:
    """Counts the operations of one sample, forward and backward, with its encoding if that is part of a step."""
    with FlopCounterMode(display=False) as counter, attention_kernels(device), torch_utils.autocast(device, precision):
        objective(adapter, pairs.rows(torch.arange(4), device))[0].backward()
    adapter.zero_grad()
    return counter.get_total_flops() / 4


def gpu_idle_share(work: Callable) -> float:
    """Measures the share of the time in which no kernel ran."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return max(0.0, 1 - sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / seconds)


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Returns the tera-operations per second of a large square product, the best of ten."""
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best / 1e12


def main(small: bool) -> None:
    m = load_models(small)
    forms = SMALL_FORMS if small else FORMS
    m.rates = {
        name: matmul_rate(m.device, torch_utils.compute_dtype(m.device, name))
        for name in sorted({config["precision"] for *_, config in forms.values()})
    }
    device = f"CPU, {torch.get_num_threads()} threads" if small else torch.cuda.get_device_name()
    figures = {"device": device, "torch": torch.__version__, "matmul_teraflops": {k: round(v, 3) for k, v in m.rates.items()}, "forms": {}}
    for name, form in forms.items():
        try:
            figures["forms"][name] = measure(m, small, *form)
        except ValueError as error:  # e.g. short memory; the other forms still run
            figures["forms"][name] = {"failed": str(error)}
        print(name, json.dumps(figures["forms"][name]), flush=True)
    rates = {name: form.get("samples_per_second") for name, form in figures["forms"].items()}
    against = [name for name in rates if "naive" in name or name.startswith(("published", "restored"))]
    figures["times_faster"] = {
        f"{ours} / {theirs}": round(rates[ours] / rates[theirs], 2)
        for theirs in against
        for ours in rates
        if ours not in against and rates[ours] and rates[theirs] and (not small or theirs.startswith(f"{ours},"))
    }
    text = json.dumps(figures, indent=2) + "\n"
    Path(__file__).with_name(f"train-{m.device}.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main("--small" in sys.argv)
