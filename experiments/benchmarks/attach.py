"""The cost of an adapter: one call of it against the U-Net's steps for one image, at the sizes of Stable Diffusion 1.5, 512 pixels.

    python -m experiments.benchmarks.attach      # some minutes on a CPU; writes attach-cpu.json or attach-cuda.json

An image is 20 steps with guidance: 20 U-Net calls of two prompts each. The adapter is called once, on embeddings (1, 77, 768), in fp32 as
in training; the U-Net runs in fp32 on a CPU and in fp16 on a GPU. Text encoder, VAE and scheduler are left out, so the share of a whole
image is smaller. Weights are random, which does not change the cost. Times are medians; on a CPU they are process time, which other
programs affect less than wall time, and their ratio is more reliable than each alone. Operations are counted by torch.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.models.torch_utils import resolve_device

STEPS = 20
WIDTH, TOKENS, SIDE = 768, 77, 64


def main() -> None:
    torch.manual_seed(0)
    device = resolve_device()
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=SIDE, cross_attention_dim=WIDTH)  # the other sizes are the class's defaults
        adapter = SURAdapter(AdapterConfig(WIDTH))
    unet = unet.half() if device == "cuda" else unet
    figures = {"device": f"{device}, {torch.get_num_threads()} threads", "torch": torch.__version__, "steps": STEPS}
    figures |= measure(unet.eval(), adapter.eval(), TOKENS, SIDE, repeats=2 if device == "cpu" else 50)
    text = json.dumps(figures, indent=2) + "\n"
    Path(__file__).with_name(f"attach-{device}.json").write_text(text)
    print(text)


@torch.no_grad()
def measure(unet: UNet2DConditionModel, adapter: SURAdapter, tokens: int, side: int, repeats: int) -> dict:
    """Measures millions of weights, seconds and operations of a call of the adapter and of a step, and the adapter's share of the steps."""
    like = next(unet.parameters())
    features = torch.randn(1, tokens, adapter.config.width).to(like)
    latents = torch.randn(2, unet.config.in_channels, side, side).to(like)
    own = next(adapter.parameters()).dtype
    calls = {
        "adapter": (lambda: adapter(features.to(own), 1.0).to(features.dtype), 10 * repeats),
        "step": (lambda: unet(latents, 500, features.repeat(2, 1, 1)).sample, repeats),
    }
    figures = {}
    for (name, (call, times)), model in zip(calls.items(), (adapter, unet), strict=True):
        with FlopCounterMode(display=False) as counter, slow_path():
            call()  # the first call includes one-time costs
        weights = sum(p.numel() for p in model.parameters())
        figures[name] = {"million_weights": round(weights / 1e6, 2), "seconds": median_seconds(call, times, like.device.type)}
        figures[name]["gigaflop"] = counter.get_total_flops() / 1e9
    for unit in ("seconds", "gigaflop"):
        figures[f"share_of_{unit}"] = round(figures["adapter"][unit] / (STEPS * figures["step"][unit]), 6)
    return figures


def median_seconds(call: Callable, times: int, device: str) -> float:
    """Returns the median time of a call."""
    clock, times_taken = time.perf_counter if device == "cuda" else time.process_time, []
    for _ in range(times):
        started = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times_taken.append(clock() - started)
    return round(statistics.median(times_taken), 5)


@contextmanager
def slow_path() -> Iterator[None]:
    """Runs transformer layers as single operations: torch does not count the fused ones that run without gradients."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


if __name__ == "__main__":
    main()
