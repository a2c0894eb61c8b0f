"""Two nodes: one loads an adapter, one adapts a CONDITIONING between CLIP Text Encode and the sampler.

A CONDITIONING is a list of pairs [features [B, L, d], settings]. L is a multiple of 77: ComfyUI encodes a long prompt in chunks
and puts them in a row. Every chunk is adapted by itself, as it was encoded. SDXL's pooled vector is `pooled_output` of the settings.
"""

from math import isfinite
from pathlib import Path

import folder_paths
import torch
from torch import Tensor

KIND = "sur_adapters"  # the folder of ComfyUI's models, and its name in extra_model_paths.yaml
BY_PATH = "(the path below)"
CHUNK = 77  # tokens that CLIP reads at once

folder_paths.add_model_folder_path(KIND, str(Path(folder_paths.models_dir) / KIND))


class SURAdapterLoader:
    """A folder with config.json and model.safetensors, as `train` and `python -m sur_adapter convert` write them."""

    CATEGORY, FUNCTION = "conditioning/SUR-adapter", "load"
    RETURN_TYPES, RETURN_NAMES = ("SUR_ADAPTER",), ("adapter",)
    DESCRIPTION = f"Loads an adapter: a folder inside models/{KIND}, or any other by its path."

    @classmethod
    def INPUT_TYPES(cls):
        choice = {"tooltip": f"Folders of models/{KIND} that hold an adapter."}
        return {
            "required": {"adapter": ([*_adapters(), BY_PATH], choice)},
            "optional": {"path": ("STRING", {"default": "", "tooltip": f"A folder, where {BY_PATH} is chosen."})},
        }

    @classmethod
    def IS_CHANGED(cls, adapter: str, path: str = ""):
        """Other than last time where the files are: an adapter that was trained anew is loaded anew."""
        files = [_folder(adapter, path) / name for name in ("config.json", "model.safetensors")]
        return " ".join(f"{file}:{file.stat().st_mtime_ns}:{file.stat().st_size}" for file in files if file.exists())

    def load(self, adapter: str, path: str = ""):
        try:
            from sur_adapter import SURAdapter
        except ImportError as error:
            raise ImportError("the package sur-adapter is not installed in ComfyUI's Python: see this node's README.md") from error
        return (SURAdapter.from_pretrained(_folder(adapter, path)),)


class SURAdapterApply:
    """Adapts what CLIP made of a prompt. Wire it before the sampler's `positive`; the negative prompt goes past it."""

    CATEGORY, FUNCTION = "conditioning/SUR-adapter", "apply"
    RETURN_TYPES = ("CONDITIONING",)
    DESCRIPTION = "Makes a plain sentence draw as well as a keyword prompt. For the positive prompt; strength 0 changes nothing."

    @classmethod
    def INPUT_TYPES(cls):
        eta = {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.05, "round": 0.001}
        eta["tooltip"] = "Weight of the adapter: 0 is the base model, 1 the whole adapter; 0.1 for checkpoints of the published code."
        return {"required": {"conditioning": ("CONDITIONING",), "adapter": ("SUR_ADAPTER",), "strength": ("FLOAT", eta)}}

    def apply(self, conditioning: list, adapter, strength: float):
        """A new CONDITIONING; the one given stays as it is. Raises ValueError for features of another model's width."""
        if not isfinite(strength):
            raise ValueError(f"strength is {strength}: give a number, 0 for the base model, 1 for the whole adapter")
        return ([_adapted(x, settings, adapter, strength) for x, settings in conditioning],)


def _adapted(x: Tensor, settings: dict, adapter, strength: float) -> list:
    """One pair anew: x [B, L, d] by the adapter, `pooled_output` [B, p] by its pool where it has one."""
    config, settings = adapter.config, settings.copy()
    if x.ndim != 3 or x.shape[-1] != config.width:
        raise ValueError(_refusal(adapter, "text features", config.width, x.shape[-1]))
    if x.shape[1] % CHUNK:
        raise ValueError(
            f"the conditioning has {x.shape[1]} tokens, but CLIP's come by {CHUNK}: wire CLIP Text Encode straight to this node"
        )
    if not strength:
        return [x, settings]
    pooled = settings.get("pooled_output")
    if config.pooled_width and pooled is not None:
        if pooled.shape[-1] != config.pooled_width:
            raise ValueError(_refusal(adapter, "a pooled vector", config.pooled_width, pooled.shape[-1]))
        settings["pooled_output"] = _by(adapter, adapter.pool, pooled, strength)
    chunks = x.unflatten(1, (-1, CHUNK)).flatten(0, 1)  # (B · L/77, 77, d)
    return [_by(adapter, adapter, chunks, strength).reshape(x.shape), settings]


@torch.no_grad()
def _by(adapter, how, x: Tensor, strength: float) -> Tensor:
    """In the adapter's own type where x is, and given back in the type of x."""
    adapter.to(x.device)
    own = next(adapter.parameters()).dtype
    return how(x.to(own), strength).to(x.dtype)


def _refusal(adapter, what: str, width: int, found: int) -> str:
    model = adapter.config.about.get("base_model", "another model")
    return (
        f"the adapter was trained for {model} with {what} {width} wide, but this conditioning has {found}: load {model}, or another adapter"
    )


def _adapters() -> dict[str, Path]:
    """Name -> folder of every adapter in ComfyUI's folders, by name."""
    found = {}
    for root in map(Path, folder_paths.get_folder_paths(KIND)):
        for config in root.rglob("config.json"):
            if (config.parent / "model.safetensors").exists():
                found.setdefault(config.parent.relative_to(root).as_posix(), config.parent)
    return dict(sorted(found.items()))


def _folder(adapter: str, path: str) -> Path:
    """Where the adapter of these two fields lies."""
    if adapter != BY_PATH:
        known = _adapters()
        if adapter not in known:
            there = ", ".join(known) or "none"
            raise FileNotFoundError(f"there is no adapter {adapter!r} in models/{KIND}, only {there}: put its folder there, or give a path")
        return known[adapter]
    if not path.strip():
        raise ValueError(f"no adapter is chosen: choose one of models/{KIND}, or give the path of a folder that holds one")
    return Path(path.strip()).expanduser()


NODE_CLASS_MAPPINGS = {"SURAdapterLoader": SURAdapterLoader, "SURAdapterApply": SURAdapterApply}
NODE_DISPLAY_NAME_MAPPINGS = {"SURAdapterLoader": "Load SUR-adapter", "SURAdapterApply": "Apply SUR-adapter"}
