"""train: the adapter, from cached features alone."""

import json
from hashlib import sha256
from pathlib import Path

import torch

import sur_adapter.bank as banks
import sur_adapter.compute as compute
from sur_adapter.adapter import AdapterConfig, SURAdapter
from sur_adapter.provenance import revision
from sur_adapter.schema import settings
from sur_adapter.store import Split, Store
from sur_adapter.trainer import Features, Objective, fit


def train(
    clip: Path, llm: Path, vae: Path, bank: Path, out: Path, log: Path, *, models: dict, adapter: dict, loss: dict, train: dict
) -> None:
    splits, about = load(clip, llm, vae if loss.get("w_diffusion") else None, models)
    options = settings(options_of_training, train, "train")
    weights = settings(objective, loss, "loss")
    where = compute.device(options.pop("device", "auto"))
    torch.manual_seed(options.get("seed", 0))
    teacher_width = splits["train"].teacher.shape[-1]
    config = settings(network, adapter, "adapter") | {"width": splits["train"].simple.shape[-1], "teacher_width": teacher_width}
    model = SURAdapter(AdapterConfig(**config, about=about | {"code": revision(__file__), "loss": dict(loss), "train": dict(train)}))
    goal = objective(models, bank, where, compute.dtype(options.get("precision", "fp32")), **weights)
    history, rate = fit(model, goal, splits["train"], splits["validation"], device=where, **options)
    model.save_pretrained(out)
    log.mkdir(parents=True, exist_ok=True)
    (log / "history.json").write_text(json.dumps(history, indent=1) + "\n")
    print(f"{len(splits['train'])} pairs, {rate:.0f} samples/s, loss {history[0]['loss']:.4f} -> {history[-1]['loss']:.4f}")


def options_of_training(
    *, steps: int, batch: int, lr: float, seed: int = 0, every: int = 50, device: str = "auto", precision: str = "fp32"
) -> None:
    """The keys of params.yaml: train."""


def network(*, variant: str = "sur", depth: int = 2, heads: int = 8, strength: float | None = None) -> None:
    """The keys of params.yaml: adapter; widths are read from the features."""


def objective(
    models: dict,
    bank: Path,
    where: str,
    dtype: torch.dtype,
    *,
    prompt: str = "attention",
    w_diffusion: float,
    w_prompt: float,
    w_llm: float,
) -> Objective:
    """The keys of params.yaml: loss, and what is frozen behind them."""
    if prompt not in ("attention", "kl"):
        raise ValueError(f"params.yaml: loss.prompt is {prompt!r}: choose attention or kl")
    result = Objective(w_diffusion, w_prompt, w_llm)
    if w_prompt and prompt == "attention":
        result.layers = banks.read(bank, where, dtype)
    if w_diffusion:
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel  # seconds to import

        import sur_adapter.diffusion as diffusion

        result.unet = diffusion.part(models["diffusion"], UNet2DConditionModel, "unet").to(where).eval().requires_grad_(False)
        result.scheduler = diffusion.part(models["diffusion"], DDPMScheduler, "scheduler")
        result.scaling = AutoencoderKL.load_config(models["diffusion"], subfolder="vae")["scaling_factor"]
    return result


def load(clip: Path, llm: Path, vae: Path | None, models: dict | None = None) -> tuple[dict[str, Features], dict]:
    """split -> features, and where they come from. Refused if the caches do not hold the same rows, or other models made them."""
    stores = [Store(folder) for folder in (clip, llm, vae) if folder]
    for store in stores:
        store.expect(base_model=(models or {}).get("diffusion"), llm=(models or {}).get("llm"))
    about = stores[0].about | stores[1].about | {"layers": sorted(stores[1].names)}
    about["data"] = sha256("".join(stores[0].ids).encode()).hexdigest()[:16]
    return {split: features(Split(stores, split), sorted(stores[1].names)) for split in SPLITS}, about


SPLITS = ("train", "validation", "test")


def features(rows: Split, layers: list[str]) -> Features:
    """All rows of a split, in memory."""
    held = rows.rows(range(len(rows)))
    teacher = torch.cat([held[name] for name in layers], -1)  # (N, d_llm · layers)
    return Features(held["simple"], held["complex"], teacher, held.get("latents"))
