"""Training steps: ours, from what is cached, against the work of the published loop, on one machine in one run.

    python -m experiments.benchmarks.train            # models of Stable Diffusion 1.5's sizes, 512 pixels, on a GPU: train-cuda.json
    python -m experiments.benchmarks.train --small    # the miniature's models on a CPU: train-cpu.json

Weights of the large form are random: what they say makes no sense, what they cost is the same. Each form runs in the real loop
(sur_adapter.training.trainer.fit). The naive forms encode both prompts by CLIP and the picture by the VAE in every step, as the published
code does; `published` also detaches the words from the diffusion loss as it does, which spares it the way back through the U-Net;
`restored` does not. For each form: samples a second, peak memory on a GPU, operations of a sample (torch's counter, both ways), their
share of the matmul rate measured here, and the share of the time in which the GPU had no kernel to run.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from sur_adapter.training.training_step import attention
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.features.query_bank import CrossAttention
from sur_adapter.models import torch_utils as compute
from sur_adapter.models.stable_diffusion import cross_attention_layers
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.objective import Objective
from sur_adapter.training.trainer import fit

MINIATURE = "models/miniature/stable-diffusion"
PAIRS = 256
OURS = {"optimizer": "muon", "precision": "bf16", "lr": 3e-4}
THEIRS = {"optimizer": "adamw", "precision": "fp16", "lr": 1e-5, "weight_decay": 1e-2, "betas": (0.9, 0.999), "schedule": "constant"}
ONE_BY_FOUR = {"batch": 1, "accumulation": 4}
PAPER = {"w_diffusion": 1.0, "w_prompt": 1e-5, "w_llm": 1e-5}
WORDS, ALL = {"w_diffusion": 0.0, "w_prompt": 1.0, "w_llm": 0.01}, {"w_diffusion": 1.0, "w_prompt": 1.0, "w_llm": 0.01}

SMALL_FORMS = {  # name: (weights, naive, how the U-Net runs, how it is trained)
    "words alone": (WORDS, False, {}, OURS | {"batch": 64, "steps": 30}),
    "words alone, naive": (WORDS, True, {}, OURS | {"batch": 64, "steps": 6}),
    "all terms": (ALL, False, {}, OURS | {"batch": 64, "steps": 3}),
    "all terms, naive": (ALL, True, {}, OURS | {"batch": 64, "steps": 3}),
}
FORMS = {
    "words alone, 64": (WORDS, False, {}, OURS | {"batch": 64, "steps": 100}),
    "all terms, 16": (ALL, False, {}, OURS | {"batch": 16, "steps": 20}),
    "all terms, 16, channels last": (ALL, False, {"channels_last": True}, OURS | {"batch": 16, "steps": 20}),
    "all terms, 64, checkpointing": (ALL, False, {"gradient_checkpointing": True}, OURS | {"batch": 64, "steps": 8}),
    "all terms, 1 x 4": (ALL, False, {}, OURS | ONE_BY_FOUR | {"steps": 20}),
    "published, 1 x 4": (PAPER, "detached", {}, THEIRS | ONE_BY_FOUR | {"steps": 20}),
    "restored, 1 x 4": (PAPER, True, {}, THEIRS | ONE_BY_FOUR | {"steps": 20}),
}


class Inline:
    """Pairs that are encoded when they are asked for: pixels by the VAE, both prompts by CLIP."""

    def __init__(self, models, kind: torch.dtype, pixels: int):
        self.vae, self.text = (nn.Module.to(part, models.where, kind) for part in (models.vae, models.text))
        self.pixels = torch.randint(256, (PAIRS, 3, pixels, pixels), dtype=torch.uint8)
        self.ids = torch.randint(self.text.config.vocab_size, (2, PAIRS, self.text.config.max_position_embeddings))
        self.teacher = torch.randn(PAIRS, models.teacher).half()

    together = TrainingBatch.together

    def __len__(self) -> int:
        return PAIRS

    @torch.no_grad()
    def rows(self, index: torch.Tensor, device: str) -> TrainingBatch:
        pixels = self.pixels[index].to(device).to(self.vae.dtype) / 127.5 - 1
        moments = self.vae.encode(pixels).latent_dist
        words = [self.text(ids[index].to(device))[0].float() for ids in self.ids]
        return TrainingBatch(*words, self.teacher[index].to(device).float(), torch.stack([moments.mean, moments.logvar], 1).float())


class Detached(Objective):
    """The published objective: the diffusion loss is reckoned, and teaches nothing."""

    def _diffusion(self, batch, adapted, *rest):
        return super()._diffusion(batch, adapted.detach(), *rest)


def models(small: bool) -> SimpleNamespace:
    """Frozen, on the device they run on."""
    torch.manual_seed(0)
    where = "cpu" if small else "cuda"
    if small:
        unet, vae, text = (
            cls.from_pretrained(MINIATURE, subfolder=name)
            for cls, name in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"), (CLIPTextModel, "text_encoder"))
        )
    else:
        blocks, ways = [128, 256, 512, 512], {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
        words = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 49408}
        with torch.device(where):
            unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # the other sizes are the class's defaults
            vae = AutoencoderKL(**ways, block_out_channels=blocks, layers_per_block=2)
            text = CLIPTextModel(CLIPTextConfig(**words))
    for part in (unet, vae, text):
        nn.Module.to(part.eval().requires_grad_(False), where)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return SimpleNamespace(unet=unet, vae=vae, text=text, scheduler=scheduler, where=where, teacher=256 if small else 5120)


def objective(m, weights: dict, naive: bool | str, kind: torch.dtype, *, channels_last: bool = False, gradient_checkpointing: bool = False):
    """The terms of a form, on the U-Net in that precision; ours align where it looks, the published one by KL."""
    nn.Module.to(m.unet, kind, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    (m.unet.enable_gradient_checkpointing if gradient_checkpointing else m.unet.disable_gradient_checkpointing)()
    layers = None if weights is PAPER else [_layer(module) for module in cross_attention_layers(m.unet).values()]
    cls = Detached if naive == "detached" else Objective
    return cls(**weights, layers=layers, unet=m.unet, scheduler=m.scheduler, vae_config={"scaling_factor": 0.18215})


def _layer(module) -> CrossAttention:
    q = torch.randn(2000, module.to_q.out_features).to(module.to_k.weight)
    return CrossAttention.of_layer(module, q)


def measured(m, small: bool, weights: dict, naive: bool | str, unet: dict, how: dict) -> dict:
    """Figures of one form."""
    kind = compute.torch_dtype(how["precision"])
    for part in (m.vae, m.text):
        nn.Module.to(part, m.where if naive else "cpu")  # not in the memory of a form that does without
    tokens, width, side = m.text.config.max_position_embeddings, m.text.config.hidden_size, 8 if small else 64
    if naive:
        pairs = Inline(m, kind, 64 if small else 512)
    else:
        words = [torch.randn(PAIRS, tokens, width).half() for _ in range(2)]
        pairs = TrainingBatch(*words, torch.randn(PAIRS, m.teacher).half(), torch.randn(PAIRS, 2, 4, side, side).half())
    goal = objective(m, weights, naive, kind, **unet)
    adapter = SURAdapter(AdapterConfig(width, m.teacher, heads=4 if small else 8)).to(m.where)
    nn.init.normal_(adapter.block.g.weight, std=0.01)  # asleep, it would spare the way back
    nobody = pairs if naive else pairs.rows(torch.arange(0), "cpu")
    run = {"device": m.where, "every": how["steps"], "checkpoint": None} | how

    def train(**more) -> float:
        return fit(adapter, goal, pairs, _none(nobody), **run | more)[1]

    train(steps=2, every=2)  # what is done but once
    cuda = m.where == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    figures = {"batch": how["batch"], "accumulation": how.get("accumulation", 1), "precision": how["precision"]}
    figures["samples_per_second"] = round(train(), 2)
    if cuda:
        figures["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        figures["gpu_idle"] = round(idle(lambda: train(steps=5, every=5)), 3)
    figures["teraflop_per_sample"] = round(flops(goal, adapter, pairs, m.where, how["precision"]) / 1e12, 5)
    rate = figures["samples_per_second"] * figures["teraflop_per_sample"]
    figures["share_of_matmul_rate"] = round(rate / m.rates[how["precision"]], 3)
    return figures


def _none(pairs):
    return TrainingBatch(*(torch.empty(0, 1) for _ in range(3))) if isinstance(pairs, Inline) else pairs


def flops(goal: Objective, adapter: SURAdapter, pairs, where: str, precision: str) -> float:
    """Of one sample, there and back, its encoding included where that is part of a step."""
    with FlopCounterMode(display=False) as counter, attention(where), compute.autocast(where, precision):
        goal(adapter, pairs.rows(torch.arange(4), where))[0].backward()
    adapter.zero_grad()
    return counter.get_total_flops() / 4


def idle(work: Callable) -> float:
    """Share of the time in which no kernel ran."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return max(0.0, 1 - sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / seconds)


def matmul_rate(where: str, kind: torch.dtype) -> float:
    """Tera-operations a second of a large square product, the best of a few."""
    n = 8192 if where == "cuda" else 1024
    a, b = (torch.randn(n, n, device=where).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        if where == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best / 1e12


def main(small: bool) -> None:
    m = models(small)
    forms = SMALL_FORMS if small else FORMS
    m.rates = {name: matmul_rate(m.where, compute.torch_dtype(name)) for name in sorted({how["precision"] for *_, how in forms.values()})}
    device = f"CPU, {torch.get_num_threads()} threads" if small else torch.cuda.get_device_name()
    figures = {"device": device, "torch": torch.__version__, "matmul_teraflops": {k: round(v, 3) for k, v in m.rates.items()}, "forms": {}}
    for name, form in forms.items():
        try:
            figures["forms"][name] = measured(m, small, *form)
        except ValueError as error:  # short memory says what to do; the other forms go on
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
    Path(__file__).with_name(f"train-{m.where}.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main("--small" in sys.argv)
