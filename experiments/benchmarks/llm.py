"""Tokens per second of the LLM: LanguageModel, as the cache stage runs it, against a plain padded loop.

    python -m experiments.benchmarks.llm             # LLaMA-7B's sizes, random weights, bf16, on a GPU: writes llm.json beside this file
    python -m experiments.benchmarks.llm --small     # the miniature's LLaMA on a CPU: llm-small.json

Prompts are all different, of 8 to 32 tokens, 20 on average. The plain loop takes them in order, 32 at a time, pads all to 77 tokens, runs
every layer and keeps every hidden state. Padding is not counted as tokens. `share_of_matmul` is 2 · (weights of the layers that run) ·
tokens per second over the measured rate of one large matrix product.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sur_adapter.models.llm import LanguageModel, LLMConfig
from sur_adapter.models.torch_utils import resolve_device

MINIATURE = Path(__file__).parents[2] / "models/miniature/llama"
LAYER, PLAIN_BATCH, PLAIN_LENGTH = {False: 31, True: 6}, 32, 77


def main(small: bool) -> None:
    with TemporaryDirectory() as folder:
        model = str(MINIATURE) if small else build_llama_7b(folder)
        device = "cpu" if small else resolve_device()
        teacher = LanguageModel(model, LLMConfig(layers=(LAYER[small],), max_tokens_per_batch=4096 if small else 8192), device)
        prompts = sentences(teacher.tokenizer, 1024 if small else 2048)
        tokens = sum(len(ids) for ids in teacher.encode(prompts))
        ours, result = timed(lambda: teacher(prompts)[f"layer_{LAYER[small]}"])
        weights = sum(p.numel() for p in teacher.blocks.parameters())
        kind = str(teacher.dtype)[6:]
        plain, expected = timed(naive_loop(model, prompts, LAYER[small], device, getattr(torch, kind)))
    rate = matmul_flops(device, getattr(torch, kind))
    figures = {
        "model": "the miniature's LLaMA" if small else "LLaMA-7B sizes, random weights",
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": kind,
        "prompts": len(prompts),
        "tokens_a_prompt": round(tokens / len(prompts), 1),
        "tokens_per_second": round(tokens / ours),
        "tokens_per_second_plain": round(tokens / plain),
        "times_faster": round(plain / ours, 2),
        "matmul_teraflops": round(rate / 1e12, 3),
        "share_of_matmul": round(2 * weights * tokens / ours / rate, 3),
        "median_relative_difference": round(((result - expected).norm(dim=1) / expected.norm(dim=1)).median().item(), 5),
    }
    file = Path(__file__).with_name("llm-small.json" if small else "llm.json")
    file.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def build_llama_7b(folder: str) -> str:
    """Writes a LLaMA-7B with random weights in the layout of the hub; the tokenizer is the miniature's. Returns the folder."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(resolve_device()):
        LlamaForCausalLM(LlamaConfig()).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    AutoTokenizer.from_pretrained(MINIATURE).save_pretrained(folder)
    return folder


def sentences(tokenizer, count: int) -> list[str]:
    """Generates different sentences of 8 to 32 tokens each, the start token included."""
    random, words = Random(0), [w for w in (tokenizer.decode([i]).strip() for i in range(3, len(tokenizer))) if w.isalpha()]
    result: dict[str, None] = {}
    while len(result) < count:
        sentence, length = "", random.randint(8, 32)
        while len(tokenizer(sentence).input_ids) < length:
            sentence = f"{sentence} {random.choice(words)}".strip()
        result[sentence] = None
    return list(result)


def naive_loop(model: str, prompts: list[str], layer: int, device: str, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """Loads the model and returns the straightforward loop: fixed padding, every layer, every hidden state."""
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model, dtype=dtype).to(device).eval()
    tokenizer.pad_token = tokenizer.eos_token

    @torch.no_grad()
    def run() -> torch.Tensor:
        result = []
        for i in range(0, len(prompts), PLAIN_BATCH):
            batch = tokenizer(
                prompts[i : i + PLAIN_BATCH], padding="max_length", max_length=PLAIN_LENGTH, truncation=True, return_tensors="pt"
            )
            states = network(**batch.to(device), output_hidden_states=True).hidden_states[layer].cpu()
            result.append(states[torch.arange(len(states)), batch.attention_mask.cpu().sum(1) - 1].float())
        return torch.cat(result)

    return run


def timed(work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Returns seconds (the minimum of three runs after a warm-up), and the result on the CPU."""
    result, seconds = work(), []
    for _ in range(3):
        started = time.perf_counter()
        result = work().cpu()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def matmul_flops(device: str, dtype: torch.dtype) -> float:
    """Returns the floating-point operations per second of one large matrix product."""
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(10):
            c = a @ b
        c[0, 0].item()
        best = min(best, (time.perf_counter() - started) / 10)
    return 2 * n**3 / best


if __name__ == "__main__":
    main("--small" in sys.argv[1:])
