"""The training loop the miniature's models share: seeded at every step, resumable, averaged."""

import json
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

CHECKPOINT_EVERY = 100  # steps


def fit(model: nn.Module, loss: Callable[[int], Tensor], checkpoint: Path, settings: dict, inputs: Iterable[Path] = ()) -> dict:
    """Minimise loss(step) over the parameters of `model`: AdamW, one cycle, an exponential average kept in the end.

    settings: `steps`, `lr`, `seed`, `ema`, and whatever else the model was built with.
    The generator is seeded anew at every step, so a run that was killed and goes on from its checkpoint makes the
    same model as one that was not. A checkpoint made with other settings, or from other `inputs` (files, folders), is not taken up.
    Returns {"steps", "seconds", "threads", "parameters", "loss" (mean of the last hundred steps)}.
    """
    key = json.dumps(settings | {"inputs": [_digest(path) for path in inputs]}, sort_keys=True)
    steps, lr, seed = settings["steps"], settings["lr"], settings["seed"]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings["ema"]))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "average": average}
    losses, spent = _resume(checkpoint, key, parts)
    start = perf_counter() - spent

    model.train()
    with tqdm(range(len(losses), steps), initial=len(losses), total=steps, desc=checkpoint.stem, disable=None) as bar:
        for step in bar:
            torch.manual_seed(seed * 1_000_003 + step)
            value = loss(step)
            value.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            average.update_parameters(model)
            losses.append(value.item())
            if step % 20 == 0:
                bar.set_postfix(loss=f"{sum(losses[-20:]) / len(losses[-20:]):.4f}")
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
                _keep(checkpoint, key, parts, losses, perf_counter() - start)
    model.load_state_dict(average.module.state_dict())
    model.eval()
    return {
        "steps": steps,
        "seconds": round(perf_counter() - start),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in trained),
        "loss": round(sum(losses[-100:]) / len(losses[-100:]), 4),
    }


def _digest(path: Path) -> str:
    """Of a file's bytes, or of all files of a folder but the reports of their training."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != "training.json") if path.is_dir() else [path]
    digest = sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _keep(path: Path, key: str, parts: dict, losses: list[float], seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    torch.save({"key": key, "losses": losses, "seconds": seconds} | {name: part.state_dict() for name, part in parts.items()}, half)
    half.replace(path)


def _resume(path: Path, key: str, parts: dict) -> tuple[list[float], float]:
    if not path.exists():
        return [], 0.0
    state = torch.load(path, weights_only=True)
    if state["key"] != key:
        return [], 0.0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["losses"], state["seconds"]


def save_half(model, path: Path, training: dict | None = None) -> None:
    """Weights as fp16 safetensors, and `training.json`; the config asks for float32, so that plain `from_pretrained` runs on a CPU."""
    model.half().save_pretrained(path)
    file = path / "config.json"
    config = json.loads(file.read_text())
    config.pop("_name_or_path", None)
    for part in (config, *(v for k, v in config.items() if k.endswith("_config") and isinstance(v, dict))):
        if "_class_name" not in part:  # transformers; diffusers loads float32 unless told otherwise
            part["dtype"] = "float32"
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if training:
        (path / "training.json").write_text(json.dumps(training, indent=2) + "\n")


def has_bf16() -> bool:
    """Whether the CPU computes bf16 products itself; others emulate them, 3 to 50 times slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    has_instructions = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return torch.backends.mkldnn.is_available() and has_instructions


@contextmanager
def autocast():
    """bf16 for matrix products if the CPU has it, and attention without the fused kernel, whose backward pass is slower on a CPU."""
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()), sdpa_kernel(SDPBackend.MATH):
        yield
