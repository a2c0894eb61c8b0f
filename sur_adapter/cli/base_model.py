"""Loads diffusion models in every form that people have: a folder, a folder of fp16 variants, one .safetensors file, a name on the hub.

All parts get one dtype: diffusers itself loads a text encoder in the dtype that its config names, and the U-Net in float32.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from sur_adapter.models.loading import LOADING_ERRORS, SAFETENSORS_ONLY
from sur_adapter.models.torch_utils import DTYPES

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name
HUB_TIMEOUT = 10  # seconds for one question to the hub
FP16_FILE = re.compile(r"\.fp16[.-]")  # as `save_pretrained(variant="fp16")` names weights


def resolve_device(name: str = "auto") -> str:
    """Names the device of torch; "auto" is an NVIDIA or AMD GPU, else an Apple GPU, else the CPU.

    Raises ValueError for a device that this machine or this build of torch does not have.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"the device {name!r} cannot be used on this machine: give cpu, cuda, cuda:1, … or mps, or leave --device out"
        ) from error
    return name


def load_base_model(model: str, dtype: str = "fp32", config: str | None = None) -> "DiffusionPipeline":
    """Loads a pipeline with all its parts in one dtype, without safety checker and progress bar, on the CPU.

    dtype: a name of DTYPES. config: for a .safetensors file, the folder or the name on the hub whose configs and tokenizer it needs; by
    default those that diffusers finds for such a file on the hub. Raises FileNotFoundError or ValueError, in one sentence.
    """
    file = Path(model)
    if file.is_file():
        pipe = _from_single_file(file, config)
    else:
        check_exists(model, "model_index.json")
        pipe = _from_folder_or_hub(model)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(DTYPES[dtype])


def load_text_encoder(model: str) -> nn.Module:
    """Loads the text encoder of a model, a folder or a name on the hub, in the dtype in which it is stored.

    Raises FileNotFoundError or ValueError, in one sentence.
    """
    from transformers import CLIPTextModel

    if Path(model).is_file():
        raise ValueError(f"{model} is a file: name the folder of the model, or its name on the hub")
    check_exists(model, "text_encoder/config.json")
    options = {"subfolder": "text_encoder", "use_safetensors": True}
    try:
        return _first_that_loads(CLIPTextModel.from_pretrained, model, options)
    except LOADING_ERRORS as error:
        raise FileNotFoundError(
            f"{model} has no text_encoder that can be loaded: name a folder that holds one, or a model of the hub"
        ) from error


def check_exists(model: str, file: str) -> None:
    """Raises FileNotFoundError at once if `model` is neither a path nor a name on the hub where `file` is found.

    transformers would ask the hub for several files, several times each: most of a minute without a network.
    """
    if Path(model).exists():
        return
    from huggingface_hub import snapshot_download

    if not HUB_NAME.fullmatch(model):
        raise FileNotFoundError(f"{model} is neither a folder nor a file, and no name on the hub (owner/name): name a model that exists")
    try:  # not hf_hub_download, which repeats its question for half a minute
        found = Path(snapshot_download(model, allow_patterns=[file], etag_timeout=HUB_TIMEOUT))
        if not (found / file).exists():
            raise FileNotFoundError(file)
    except Exception as error:  # a network fails in many ways
        raise FileNotFoundError(
            f"{model} is not a folder, and the hub does not provide its {file} now: check the name and the network, or name a folder"
        ) from error


def _from_folder_or_hub(model: str) -> "DiffusionPipeline":
    import diffusers

    has_checker = "safety_checker" in diffusers.DiffusionPipeline.load_config(model)
    options = {"safety_checker": None, "requires_safety_checker": False} if has_checker else {}
    return _first_that_loads(diffusers.DiffusionPipeline.from_pretrained, model, SAFETENSORS_ONLY | options)


def _first_that_loads(load, model: str, options: dict):
    """Loads the plain weights, or those of the variant fp16 where there are no others. The error is that of the last attempt."""
    variants = [variant_of(Path(model))] if Path(model).is_dir() else [None, "fp16"]
    for variant in variants[:-1]:
        try:
            return load(model, **options, variant=variant)
        except LOADING_ERRORS:
            continue
    return load(model, **options, variant=variants[-1])


def variant_of(folder: Path) -> str | None:
    """Returns "fp16" if a part of a model has only weights whose names say fp16, else None."""
    parts = [[file.name for file in part.glob("*.safetensors")] for part in folder.iterdir() if part.is_dir()]
    return "fp16" if any(names and all(map(FP16_FILE.search, names)) for names in parts) else None


def _from_single_file(file: Path, config: str | None) -> "DiffusionPipeline":
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        raise ValueError(f"{file} does not end in .safetensors: weights are read from safetensors alone, never from a pickle")
    try:
        with safe_open(file, "pt") as tensors:
            is_xl = any(name.startswith("conditioner.") for name in tensors.keys())  # noqa: SIM118  it is no dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read as safetensors ({error}): download it again") from error
    cls = diffusers.StableDiffusionXLPipeline if is_xl else diffusers.StableDiffusionPipeline
    options = {} if is_xl else {"safety_checker": None, "requires_safety_checker": False}
    try:
        return cls.from_single_file(str(file), config=config, **options)
    except (*LOADING_ERRORS, RuntimeError, SingleFileComponentError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(" .:")
        raise ValueError(
            f"{file} cannot be loaded as {cls.__name__} with the configs of {config or 'its kind on the hub'} ({reason}): give one "
            "of Stable Diffusion 1, 2 or XL, with an adapter for its base model"
        ) from error
