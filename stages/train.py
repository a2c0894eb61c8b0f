"""train: the adapter, from cached features alone.

On several GPUs: `train.processes` in params.yaml, or a launcher in `train.launch`, which the stage puts itself under.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

import sur_adapter.features.query_bank as banks
import sur_adapter.models.torch_utils as compute
import sur_adapter.training.losses as losses
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.config import choose, settings
from sur_adapter.features.store import Split, Store
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.code_version import code_version
from sur_adapter.io.hashing import folder_digest, short_digest
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models.stable_diffusion import encode_empty_prompt, load_frozen_unet, load_vae_config
from sur_adapter.training.dataset import FeatureDataset
from sur_adapter.training.diffusion_loss import Denoising
from sur_adapter.training.distributed import launcher, team
from sur_adapter.training.objective import Objective
from sur_adapter.training.optim import OPTIMIZERS, SCHEDULES
from sur_adapter.training.trainer import fit

UNDER = "SUR_LAUNCHED"  # set for what a launcher runs: not every one says so itself, and the stage shall not launch itself for ever


def train(
    clip: Path, llm: Path, vae: Path, bank: Path, out: Path, log: Path, *, models: dict, adapter: dict, loss: dict, train: dict
) -> None:
    options = options_of_training(**settings(options_of_training, train, "train"))
    weights = settings(objective, loss, "loss")
    if launched(options.pop("launch"), options.pop("processes"), clip, llm, vae, bank, out, log):
        return
    train = {key: value for key, value in train.items() if key != "launch"}  # what is made does not tell of machines and addresses
    splits, about, made = load([clip, llm, *([vae] if weights["w_diffusion"] else [])], models)
    check(splits, options, weights)
    where = compute.resolve_device(options.pop("device"))
    crew, _ = team(where, options["batch"])
    where = str(crew.device) if crew.num_processes > 1 else where
    unet = {key: options.pop(key) for key in ("compile", "channels_last", "gradient_checkpointing")}
    torch.manual_seed(options["seed"])
    about |= {"code": code_version(__file__), "loss": dict(loss), "train": dict(train)}
    config = settings(network, adapter, "adapter") | widths(splits["train"], weights) | {"about": about}
    model = SURAdapter(AdapterConfig(**config))
    if weights.get("projection") == "frozen" and model.projection:
        model.projection.requires_grad_(False)
    goal = objective(models, bank, where, compute.torch_dtype(options["precision"]), unet, **weights)
    live = options.pop("live")
    depends = {
        "config": config,
        "params": [models, loss, train],
        "inputs": [made, folder_digest(bank, "*.safetensors")],
        "torch": torch.__version__,
    }
    with WorkCache("train", **depends, processes=crew.num_processes) if crew.is_main_process else nullcontext() as work:
        tell = teller(log) if live and crew.is_main_process else lambda row: None
        history, rate = fit(model, goal, splits["train"], splits["validation"], work, tell, device=where, **options)
        if crew.is_main_process:
            model.save_pretrained(out)
            atomic_write_text(log / "history.json", json.dumps(history, indent=1) + "\n")
            several = f", {crew.num_processes} processes" if crew.num_processes > 1 else ""
            print(
                f"{len(splits['train'])} pairs{several}, {rate:.0f} samples/s, loss {history[0]['loss']:.4f} -> {history[-1]['loss']:.4f}"
            )
    crew.end_training()


def options_of_training(
    *,
    steps: int,
    batch: int,
    lr: float,
    accumulation: int = 1,
    seed: int = 0,
    every: int = 50,
    device: str = "auto",
    processes: int | str = 1,
    launch: str | None = None,
    precision: str = "fp32",
    optimizer: str = "muon",
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.98),
    schedule: str = "cosine",
    warmup: float = 0.1,
    clip: float | None = 1.0,
    ema: float | None = None,
    keep: str = "last",
    patience: int | None = None,
    checkpoint: int | None = 100,
    live: bool = False,
    compile: bool = False,
    channels_last: bool = False,
    gradient_checkpointing: bool = False,
) -> dict:
    """The keys of params.yaml: train, with what stands for those that are not there."""
    given = dict(locals())
    for key, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("keep", ("last", "best"))):
        choose(f"train.{key}", given[key], known)
    return given


def check(splits: dict[str, FeatureDataset], options: dict, weights: dict) -> None:
    """ValueError for what training would trip over."""
    if not len(splits["train"]):
        raise ValueError("the cache holds no pair to train on: loosen the thresholds of params.yaml: filter, or lower filter.test")
    if (options["keep"] == "best" or options["patience"]) and not len(splits["validation"]):
        raise ValueError("train.keep `best` and train.patience go by the validation split, which holds no pair: raise filter.validation")
    if weights.get("drop_condition") and "simple_pooled" in splits["train"].split.names:
        raise ValueError("params.yaml: loss.drop_condition is made for models with one text encoder: set it to 0")


def widths(train: FeatureDataset, weights: dict) -> dict[str, int]:
    """As the features have them; without the teacher's term there is nothing to project it for."""
    one = train.rows(torch.tensor([0]), "cpu")
    pooled = 0 if one.simple_pooled is None else one.simple_pooled.shape[-1]
    return {"width": one.simple.shape[-1], "teacher_width": one.teacher.shape[-1] if weights["w_llm"] else 0, "pooled_width": pooled}


def launched(launch: str | None, processes: int | str, *paths: Path) -> bool:
    """Whether the stage has been run under a launcher of processes (portion.launcher). Not where it is one of them already."""
    if "WORLD_SIZE" in os.environ or UNDER in os.environ:
        return False
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # this environment's launchers before all others
    if not (words := launcher(launch, processes, beside)):
        return False
    words += ["-m", "stages", "train", *map(str, paths)]
    if subprocess.run(words, env=os.environ | {"PATH": beside, UNDER: "1"}).returncode:
        raise ValueError("one of the processes that train failed: what it said stands above")
    return True


def teller(log: Path) -> Callable[[dict], None]:
    """Takes each row of the history to DVCLive, in log/live."""
    from dvclive import Live  # a second to import

    live = Live(str(log / "live"), save_dvc_exp=False, report=None, dvcyaml=None, monitor_system=False)

    def tell(row: dict) -> None:
        live.step = row["step"]
        for name, value in row.items():
            if name != "step":
                live.log_metric(name, value)
        live.make_summary()

    return tell


def network(*, variant: str = "sur", depth: int = 2, heads: int = 8, strength: float | None = None) -> None:
    """The keys of params.yaml: adapter; widths are read from the features."""


def objective(
    models: dict,
    bank: Path,
    where: str,
    dtype: torch.dtype,
    unet: dict,
    *,
    w_diffusion: float,
    w_prompt: float,
    w_llm: float,
    prompt: str = "attention",
    kl: str = "teacher_student",
    temperature: float = 1.0,
    tokens: str = "mean",
    mask: bool = False,
    target: str = "noise",
    t_min: int = 0,
    t_max: int | None = None,
    snr_gamma: float | None = None,
    zero_snr: bool = False,
    offset_noise: float = 0.0,
    drop_condition: float = 0.0,
    keep_complex: float = 0.0,
    projection: str = "trained",
) -> Objective:
    """The keys of params.yaml: loss, and what is frozen behind them. unet: how it runs, of params.yaml: train."""
    choose("loss.prompt", prompt, ("attention", "kl"))
    choose("loss.kl", kl, ("teacher_student", "student_teacher"))
    choose("loss.tokens", tokens, ("mean", "sum"))
    choose("loss.projection", projection, ("trained", "frozen"))
    choose("loss.target", target, ("noise", "complex"))
    divergence = partial(losses.kl, direction=kl, temperature=temperature, tokens=tokens)
    noising = Denoising(snr_gamma, offset_noise, target, t_min, t_max)
    result = Objective(w_diffusion, w_prompt, w_llm, denoising=noising, kl=divergence, mask=mask)
    result.drop_condition, result.keep_complex = drop_condition, keep_complex
    if w_prompt and prompt == "attention":
        result.layers = banks.read(bank, where, dtype, models.get("diffusion"))
    if w_diffusion:
        options = {"compile_unet": unet["compile"]} | {key: unet[key] for key in ("channels_last", "gradient_checkpointing")}
        result.unet, result.scheduler = load_frozen_unet(models["diffusion"], where, dtype, rescale_betas_zero_snr=zero_snr, **options)
        result.vae_config = load_vae_config(models["diffusion"])
        noising.check(result.scheduler)
    if drop_condition:
        result.empty = encode_empty_prompt(models["diffusion"]).to(where)
    return result


def load(folders: list[Path], models: dict) -> tuple[dict[str, FeatureDataset], dict, list]:
    """(split -> its pairs, where they come from, the manifests of all shards). folders: of words, teacher, and latents if asked for.

    Refused if they do not hold the same rows, if other models made them, or if a number is not the one that was written.
    """
    stores = [Store(folder) for folder in folders]
    for store in stores:
        store.expect(base_model=models.get("diffusion"), llm=models.get("llm"))
        store.check()
    layers = sorted(stores[1].names, key=lambda name: (len(name), name))  # layer_6 before layer_12
    about = stores[0].about | stores[1].about | {"layers": layers, "data": short_digest(*stores[0].ids)}
    splits = {split: FeatureDataset(Split(stores, split), layers) for split in ("train", "validation")}
    return splits, about, [shard.manifest for store in stores for shard in store.shards]
