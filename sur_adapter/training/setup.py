"""Sets up a training: cached features, adapter, objective and tracker, from settings and folders."""

from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig, AdapterParams
from sur_adapter.features.query_bank import load_query_bank
from sur_adapter.features.store import FeatureSplit, FeatureStore
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.stable_diffusion import encode_empty_prompt, load_frozen_unet, load_vae_config
from sur_adapter.models.torch_utils import torch_dtype
from sur_adapter.training.config import LossConfig, TrainConfig
from sur_adapter.training.dataset import FeatureDataset
from sur_adapter.training.diffusion_loss import DiffusionLoss
from sur_adapter.training.objective import Objective


def load_splits(folders: list[Path], models: ModelsConfig) -> tuple[dict[str, FeatureDataset], dict, list]:
    """Opens the cached features. Returns (split -> its pairs, facts about the models and data, the manifests of all shards).

    folders: of the text encoder's, the LLM's, and for the diffusion loss the VAE's features. Raises ValueError if they do not hold the same
    rows, if other models made them, or if a value is not the one that was written.
    """
    stores = [FeatureStore(folder) for folder in folders]
    for store in stores:
        store.check_about(base_model=models.diffusion, llm=models.llm)
        store.verify()
    layers = sorted(stores[1].names, key=lambda name: (len(name), name))  # layer_6 before layer_12
    about = stores[0].about | stores[1].about | {"layers": layers, "data": sha256("".join(stores[0].ids).encode()).hexdigest()[:16]}
    splits = {split: FeatureDataset(FeatureSplit(stores, split), layers) for split in ("train", "validation")}
    return splits, about, [shard.manifest for store in stores for shard in store.shards]


def check_splits(splits: dict[str, FeatureDataset], train: TrainConfig, loss: LossConfig) -> None:
    """Raises ValueError if the features do not suffice for the settings."""
    if not len(splits["train"]):
        raise ValueError("the cache holds no pair to train on: loosen the thresholds of params.yaml: filter, or lower filter.test")
    if (train.save_best or train.patience) and not len(splits["validation"]):
        raise ValueError("train.save_best and train.patience need the validation split, which holds no pair: raise filter.validation")
    if loss.empty_prompt_prob and "simple_pooled" in splits["train"].split.names:
        raise ValueError("params.yaml: loss.empty_prompt_prob supports only models with one text encoder: set it to 0")


def build_adapter(params: AdapterParams, pairs: FeatureDataset, loss: LossConfig, seed: int, about: dict) -> SURAdapter:
    """Creates an adapter of the features' widths, initialised from the seed. Without the LLM loss it has no projection."""
    row = pairs.rows(torch.tensor([0]), "cpu")
    config = AdapterConfig(
        **asdict(params),
        width=row.simple.shape[-1],
        teacher_width=row.teacher.shape[-1] if loss.w_llm else 0,
        pooled_width=0 if row.simple_pooled is None else row.simple_pooled.shape[-1],
        about=about,
    )
    with torch.random.fork_rng(devices=[]):  # layers are initialised from the default generator, and take no other
        torch.default_generator.manual_seed(seed)
        adapter = SURAdapter(config)
    if loss.projection == "frozen" and adapter.projection:
        adapter.projection.requires_grad_(False)
    return adapter


def build_objective(loss: LossConfig, models: ModelsConfig, queries: Path, train: TrainConfig, device: str) -> Objective:
    """Builds the objective with the frozen weights that its terms need. queries: folder of the query bank."""
    dtype = torch_dtype(train.precision)
    layers = diffusion_loss = empty_prompt = None
    if loss.w_prompt and loss.prompt == "attention":
        layers = load_query_bank(queries, device, dtype, models.diffusion)
    if loss.w_diffusion:
        unet, scheduler = load_frozen_unet(
            models.diffusion,
            device,
            dtype,
            rescale_betas_zero_snr=loss.rescale_betas_zero_snr,
            compile_unet=train.compile,
            channels_last=train.channels_last,
            gradient_checkpointing=train.gradient_checkpointing,
        )
        diffusion_loss = DiffusionLoss(loss, unet, scheduler, load_vae_config(models.diffusion))
    if loss.empty_prompt_prob:
        empty_prompt = encode_empty_prompt(models.diffusion).to(device)
    return Objective(loss, layers=layers, diffusion_loss=diffusion_loss, empty_prompt=empty_prompt)


def check_tracker(name: str | None) -> None:
    """Raises ValueError if the tracker's package is not installed; accelerate itself would ignore it."""
    if name and name not in map(str, get_available_trackers()):
        raise ValueError(f"params.yaml: train.report_to is {name!r}, which is not installed: `pip install {name}`, or set it to null")


def start_tracker(accelerator: Accelerator, log: Path) -> None:
    """Starts the tracker of the accelerator, if it has one, in the folder `log`."""
    if accelerator.log_with and accelerator.is_main_process:
        dvclive = {"dir": str(log / "dvclive"), "save_dvc_exp": False, "report": None, "dvcyaml": None, "monitor_system": False}
        accelerator.init_trackers("sur-adapter", init_kwargs={"dvclive": dvclive, "wandb": {"dir": str(log)}})
