"""Sets up a training: cached features, adapter, objective and tracker, from settings and folders."""

import logging
from dataclasses import asdict, dataclass
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
from sur_adapter.models.torch_utils import compute_dtype
from sur_adapter.training.config import LossConfig, TrainConfig
from sur_adapter.training.dataset import FeatureDataset, keep_sure_answers
from sur_adapter.training.diffusion_loss import DiffusionLoss
from sur_adapter.training.objective import Objective
from sur_adapter.training.teacher import fit_decoder, standardise
from sur_adapter.training.whitening import fit_whitening, sample_tokens

logger = logging.getLogger(__name__)
MAX_DECODER_LOSS = 0.25  # in the miniature 0.11 with the states of all tokens of an answer, 0.52 with those of the last one
SPLITS = ("train", "validation")
TEXT_COLUMNS = ("simple", "complex", "simple_pooled", "complex_pooled")


@dataclass
class TrainingData:
    """What a training reads. splits: split -> its pairs. text: split -> its text rows; None if no loss reads them.

    about: facts about models and data, for the adapter's config. manifests: of all shards.
    """

    splits: dict[str, FeatureDataset]
    text: dict[str, FeatureDataset] | None
    about: dict
    manifests: list


def load_data(clip: Path, llm: Path, vae: Path, sentences: Path | None, loss: LossConfig, models: ModelsConfig) -> TrainingData:
    """Opens the cached features that the loss reads, each in its folder.

    Raises ValueError if they do not hold the same rows, if other models made them, if a value is not the one that was written, or if there
    are no text rows for a loss that needs them.
    """
    folders = [clip, *([llm] if loss.uses_projection else []), *([vae] if loss.uses_latents else [])]
    stores = [_open(folder, models) for folder in folders]
    layers = _llm_columns(stores[1]) if loss.uses_projection else []
    about = stores[0].about | (stores[1].about | {"layers": layers} if layers else {})
    about["data"] = sha256("".join(stores[0].ids).encode()).hexdigest()[:16]
    splits = {split: FeatureDataset(FeatureSplit(stores, split), layers) for split in SPLITS}
    text = None
    if loss.w_llm and loss.sentences and (sentences or not loss.uses_projection):
        store = _open_sentences(sentences, loss, models)
        stores = [*stores, store]
        text = _text_splits(store, splits["train"], loss)
        about = store.about | about | {"sentences": sha256("".join(store.ids).encode()).hexdigest()[:16]}
    return TrainingData(splits, text, about, [shard.manifest for store in stores for shard in store.shards])


def _open(folder: Path, models: ModelsConfig) -> FeatureStore:
    store = FeatureStore(folder)
    store.check_about(base_model=models.diffusion, llm=models.llm)
    store.verify()
    return store


def _open_sentences(folder: Path | None, loss: LossConfig, models: ModelsConfig) -> FeatureStore:
    if folder is None or not folder.exists():
        found = "no folder of sentences is given" if folder is None else f"{folder} is missing"
        raise FileNotFoundError(
            f"loss.llm `{loss.llm}` learns from sentences that the LLM answered, and {found}: run `dvc repro` to cache them and give "
            "--sentences, or set loss.w_llm to 0"
        )
    return _open(folder, models)


def _text_splits(store: FeatureStore, pairs: FeatureDataset, loss: LossConfig) -> dict[str, FeatureDataset]:
    """Returns split -> its text rows whose answer is sure enough."""
    lacking = [name for name in TEXT_COLUMNS if name in ("simple", "complex", *pairs.split.names) and name not in store.names]
    if lacking:
        raise ValueError(f"{store.folder} has no column {lacking[0]!r}: it is stale; remove it and run `dvc repro`")
    layers = _llm_columns(store) if loss.uses_answer_states else []
    if loss.uses_answer_states and not layers:
        raise ValueError(f"{store.folder} holds no hidden states of the LLM, which loss.llm `{loss.llm}` needs: run `dvc repro`")
    splits = {split: FeatureSplit([store], split) for split in SPLITS}
    counts = {split: len(rows) for split, rows in splits.items()}
    for rows in splits.values():
        keep_sure_answers(rows, loss.min_logprob)
    if not len(splits["train"]):
        raise ValueError(
            f"params.yaml: loss.min_logprob is {loss.min_logprob}, and none of the {counts['train']} answers in {store.folder} is as sure: "
            "lower it, or set it to null"
        )
    return {split: FeatureDataset(rows, layers) for split, rows in splits.items()}


def _llm_columns(store: FeatureStore) -> list[str]:
    """Returns the columns of LLM features, layer_6 before layer_12."""
    return sorted((name for name in store.names if name.startswith("layer")), key=lambda name: (len(name), name))


def check_splits(splits: dict[str, FeatureDataset], train: TrainConfig, loss: LossConfig, num_processes: int = 1) -> None:
    """Raises ValueError if the features do not suffice for the settings."""
    if not len(splits["train"]):
        raise ValueError("the cache holds no pair to train on: loosen the thresholds of params.yaml: filter, or lower filter.test")
    if (train.save_best or train.patience) and not len(splits["validation"]):
        raise ValueError("train.save_best and train.patience need the validation split, which holds no pair: raise filter.validation")
    if loss.empty_prompt_prob and "simple_pooled" in splits["train"].split.names:
        raise ValueError("params.yaml: loss.empty_prompt_prob supports only models with one text encoder: set it to 0")
    if loss.sentences % num_processes:
        raise ValueError(
            f"params.yaml: loss.sentences is {loss.sentences}, which {num_processes} processes cannot share evenly: "
            "make it a multiple of them"
        )


def build_adapter(
    params: AdapterParams, pairs: FeatureDataset, loss: LossConfig, seed: int, about: dict, text: FeatureDataset | None = None
) -> SURAdapter:
    """Creates an adapter of the features' widths, initialised from the seed. It has a projection only for `loss.llm: kl`.

    text: the text rows, whose prompts are whitened with those of the pairs.
    """
    row = pairs.rows(torch.tensor([0]), "cpu")
    config = AdapterConfig(
        **asdict(params),
        width=row.simple.shape[-1],
        teacher_width=row.teacher.shape[-1] if loss.uses_projection else 0,
        pooled_width=0 if row.simple_pooled is None else row.simple_pooled.shape[-1],
        about=about,
    )
    with torch.random.fork_rng(devices=[]):  # layers are initialised from the default generator, and take no other
        torch.default_generator.manual_seed(seed)
        adapter = SURAdapter(config)
    if config.whiten:
        fit_whitening(adapter.block.norm[0], sample_tokens([pairs.split] if text is None else [pairs.split, text.split]))
    if adapter.projection and loss.projection == "standardised":
        standardise(adapter.projection, pairs, seed)
    elif adapter.projection:
        adapter.projection.requires_grad_(loss.projection == "trained")
    return adapter


def build_objective(loss: LossConfig, models: ModelsConfig, queries: Path, train: TrainConfig, device: str) -> Objective:
    """Builds the objective with the frozen weights that its terms need. queries: folder of the query bank."""
    dtype = compute_dtype(device, train.precision)
    layers = diffusion_loss = empty_prompt = None
    if loss.uses_queries:
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
    frozen = {"layers": layers, "diffusion_loss": diffusion_loss, "empty_prompt": empty_prompt}
    return Objective(loss, **frozen, padding_tokens=train.padding_tokens)


def prepare_teacher(objective: Objective, text: FeatureDataset, width: int, train: TrainConfig, device: str, num_processes: int) -> None:
    """Gives the objective what the text rows need: a fitted decoder, or a standardised projection of their vectors to the width d."""
    loss = objective.config
    if loss.llm == "decoded":
        options = {"seed": train.seed, "device": device, "precision": train.precision}
        objective.decoder, value = fit_decoder(text, objective.attention, loss, **options)
        if num_processes == 1 or torch.distributed.get_rank() == 0:
            say_how_well_answers_are_decoded(value)
        if num_processes > 1:  # rounding may differ between machines
            for parameter in objective.decoder.parameters():
                torch.distributed.broadcast(parameter, 0)
    if loss.llm == "kl" and loss.projection == "standardised":
        teacher_width = text.rows(torch.tensor([0]), "cpu").teacher.shape[-1]
        projection = torch.nn.utils.skip_init(torch.nn.Linear, teacher_width, width)
        standardise(projection, text, train.seed)
        objective.text_projection = projection.to(device)


def say_how_well_answers_are_decoded(loss: float) -> None:
    """Prints the loss of the fitted decoder, and warns of one that would teach the adapter a mixture of answers."""
    print(f"the decoder of the LLM's states makes the answers' features with loss {loss:.2f} (0: exactly; 1: all answers alike)")
    if loss > MAX_DECODER_LOSS:
        logger.warning(
            f"loss.llm is decoded, but the LLM's states hold too little of its answers (loss {loss:.2f}, expected at most "
            f"{MAX_DECODER_LOSS}): plain prompts will get worse; set cache.llm.pooling to tokens, choose other cache.llm.layers, or "
            "raise loss.decoder_steps"
        )


def check_tracker(name: str | None) -> None:
    """Raises ValueError if the tracker's package is not installed; accelerate itself would ignore it."""
    if name and name not in map(str, get_available_trackers()):
        raise ValueError(f"params.yaml: train.report_to is {name!r}, which is not installed: `pip install {name}`, or set it to null")


def start_tracker(accelerator: Accelerator, log: Path) -> None:
    """Starts the tracker of the accelerator, if it has one, in the folder `log`."""
    if accelerator.log_with and accelerator.is_main_process:
        dvclive = {"dir": str(log / "dvclive"), "save_dvc_exp": False, "report": None, "dvcyaml": None, "monitor_system": False}
        accelerator.init_trackers("sur-adapter", init_kwargs={"dvclive": dvclive, "wandb": {"dir": str(log)}})
