"""train: trains the adapter on cached features.

With several processes (train.processes, train.launch) the stage starts itself again under a launcher. A killed run resumes at the last
checkpoint, which is in the work cache until the stage is done.
"""

import json
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sur_adapter.adapter.config import AdapterParams
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.code_version import code_version
from sur_adapter.io.hashing import folder_digest
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.torch_utils import resolve_device
from sur_adapter.training.config import LossConfig, TrainConfig
from sur_adapter.training.distributed import create_accelerator, run_launched
from sur_adapter.training.setup import (
    build_adapter,
    build_objective,
    check_splits,
    check_tracker,
    load_data,
    prepare_teacher,
    start_tracker,
)
from sur_adapter.training.trainer import Trainer

if TYPE_CHECKING:
    from sur_adapter.config import Params

PATHS = {  # option: help; torchrun rejects options that are ambiguous prefixes of its own, such as --log
    "clip": "folder of the text encoder's features",
    "llm": "folder of the LLM's features, read only for loss.llm `kl`",
    "vae": "folder of the VAE's features, read only for the diffusion loss",
    "queries": "folder of the query bank of the U-Net's cross-attention layers",
    "out": "folder for the adapter: config.json and model.safetensors",
    "reports": "folder for history.json and the tracker's files",
}
SENTENCES = "folder of the sentences that the LLM answered, read only for the LLM's loss"


def add_arguments(parser: ArgumentParser) -> None:
    for name, text in PATHS.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    parser.add_argument("--sentences", type=Path, help=SENTENCES)


def run(args: Namespace, params: "Params") -> None:
    paths = {name: path for name in (*PATHS, "sentences") if (path := getattr(args, name))}
    config = params.section("train", TrainConfig)
    models, loss = params.section("models", ModelsConfig), params.section("loss", LossConfig)
    adapter = params.section("adapter", AdapterParams)
    command = ["stages", "train", *(part for name, path in paths.items() for part in (f"--{name}", str(path)))]
    if not run_launched(config.launch, config.processes, command):
        train(**paths, models=models, adapter=adapter, loss=loss, config=config)


def train(
    clip: Path,
    llm: Path,
    vae: Path,
    queries: Path,
    out: Path,
    reports: Path,
    sentences: Path | None = None,
    *,
    models: ModelsConfig,
    adapter: AdapterParams,
    loss: LossConfig,
    config: TrainConfig,
) -> None:
    """Writes the adapter to `out` and its history to `reports`."""
    data = load_data(clip, llm, vae, sentences, loss, models)
    check_tracker(config.report_to)
    device = resolve_device(config.device)
    accelerator = create_accelerator(device, config.batch_size, log_with=config.report_to, project_dir=reports)
    check_splits(data.splits, config, loss, accelerator.num_processes)
    device = str(accelerator.device) if accelerator.num_processes > 1 else device
    settings = {key: value for key, value in asdict(config).items() if key != "launch"}  # the adapter does not depend on machine addresses
    about = data.about | {"code": code_version(__file__), "loss": asdict(loss), "train": settings}
    model = build_adapter(adapter, data.splits["train"], loss, config.seed, about, data.text and data.text["train"])
    objective = build_objective(loss, models, queries, config, device)
    if data.text:
        prepare_teacher(objective, data.text["train"], model.config.width, config, device, accelerator.num_processes)
    inputs = {
        "config": asdict(model.config),
        "params": [asdict(models), asdict(loss), settings],
        "inputs": [data.manifests, folder_digest(queries, "*.safetensors")],
        "torch": torch.__version__,
        "processes": accelerator.num_processes,
    }
    with WorkCache("train", **inputs) if accelerator.is_main_process else nullcontext() as cache:
        start_tracker(accelerator, reports)
        trainer = Trainer(model, objective, config, accelerator, device)
        history, samples_per_second = trainer.fit(data.splits["train"], data.splits["validation"], cache, data.text)
        if accelerator.is_main_process:
            model.save_pretrained(out)
            atomic_write_text(reports / "history.json", json.dumps(history, indent=1) + "\n")
            processes = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
            losses = f"loss {history[0]['loss']:.4f} -> {history[-1]['loss']:.4f}"
            text = f" and {len(data.text['train'])} text rows" if data.text else ""
            print(f"{len(data.splits['train'])} pairs{text}{processes}, {samples_per_second:.0f} samples/s, {losses}")
    accelerator.end_training()
