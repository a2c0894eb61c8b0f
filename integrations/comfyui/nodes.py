"""Two ComfyUI nodes: one loads an adapter, one adapts a CONDITIONING between CLIP Text Encode and the sampler.

A CONDITIONING is a list of pairs [prompt_embeds (B, L, d), settings]. L is a multiple of 77, because ComfyUI encodes a long prompt in
chunks and concatenates them; each chunk is adapted separately. SDXL's pooled vector is `pooled_output` of the settings.
"""

from math import isfinite
from pathlib import Path

import folder_paths
import torch
from torch import Tensor

KIND = "sur_adapters"  # folder in ComfyUI's models/, and key in extra_model_paths.yaml
BY_PATH = "(the path below)"
CHUNK = 77  # tokens of one CLIP call

folder_paths.add_model_folder_path(KIND, str(Path(folder_paths.models_dir) / KIND))


class SURAdapterLoader:
    """Loads a folder with config.json and model.safetensors, as `train` and `python -m sur_adapter convert` write it."""

    CATEGORY, FUNCTION = "conditioning/SUR-adapter", "load"
    RETURN_TYPES, RETURN_NAMES = ("SUR_ADAPTER",), ("adapter",)
    DESCRIPTION = f"Loads an adapter from a folder in models/{KIND}, or from any other path."

    @classmethod
    def INPUT_TYPES(cls):
        choice = {"tooltip": f"Folders of models/{KIND} that hold an adapter."}
        return {
            "required": {"adapter": ([*_adapters(), BY_PATH], choice)},
            "optional": {"path": ("STRING", {"default": "", "tooltip": f"Folder of the adapter, if {BY_PATH} is chosen."})},
        }

    @classmethod
    def IS_CHANGED(cls, adapter: str, path: str = ""):
        """Returns a text that changes with the files, so that a retrained adapter is loaded again."""
        files = [_folder(adapter, path) / name for name in ("config.json", "model.safetensors")]
        return " ".join(f"{file}:{file.stat().st_mtime_ns}:{file.stat().st_size}" for file in files if file.exists())

    def load(self, adapter: str, path: str = ""):
        try:
            from sur_adapter import SURAdapter
        except ImportError as error:
            raise ImportError("the package sur-adapter is not installed in ComfyUI's Python: see this node's README.md") from error
        return (SURAdapter.from_pretrained(_folder(adapter, path)),)


class SURAdapterApply:
    """Adapts the conditioning of a prompt. Connect it to the sampler's `positive`; do not use it for the negative prompt."""

    CATEGORY, FUNCTION = "conditioning/SUR-adapter", "apply"
    RETURN_TYPES = ("CONDITIONING",)
    DESCRIPTION = "Makes a plain sentence work as well as a keyword prompt. For the positive prompt; strength 0 changes nothing."

    @classmethod
    def INPUT_TYPES(cls):
        slider = {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.05, "round": 0.001}
        slider["tooltip"] = "Weight of the adapter: 0 is the base model, 1 the whole adapter; 0.1 for checkpoints of the published code."
        return {"required": {"conditioning": ("CONDITIONING",), "adapter": ("SUR_ADAPTER",), "strength": ("FLOAT", slider)}}

    def apply(self, conditioning: list, adapter, strength: float):
        """Returns a new CONDITIONING; the input does not change. Raises ValueError if its width is that of another model."""
        if not isfinite(strength):
            raise ValueError(f"strength is {strength}: give a number, 0 for the base model, 1 for the whole adapter")
        return ([_adapt(x, settings, adapter, strength) for x, settings in conditioning],)


def _adapt(x: Tensor, settings: dict, adapter, strength: float) -> list:
    """Adapts one pair: x (B, L, d), and `pooled_output` (B, p) if the adapter has a block for it."""
    config, settings = adapter.config, settings.copy()
    if x.ndim != 3 or x.shape[-1] != config.width:
        raise ValueError(_width_error(adapter, "text features", config.width, x.shape[-1]))
    if x.shape[1] % CHUNK:
        raise ValueError(
            f"the conditioning has {x.shape[1]} tokens, not a multiple of {CHUNK}: connect CLIP Text Encode directly to this node"
        )
    if not strength:
        return [x, settings]
    pooled = settings.get("pooled_output")
    if config.pooled_width and pooled is not None:
        if pooled.shape[-1] != config.pooled_width:
            raise ValueError(_width_error(adapter, "a pooled vector", config.pooled_width, pooled.shape[-1]))
        settings["pooled_output"] = _call(adapter, adapter.pool, pooled, strength)
    chunks = x.unflatten(1, (-1, CHUNK)).flatten(0, 1)  # (B · L/77, 77, d)
    return [_call(adapter, adapter, chunks, strength).reshape(x.shape), settings]


@torch.no_grad()
def _call(adapter, network, x: Tensor, strength: float) -> Tensor:
    """Calls `network` on the device of x, in the adapter's dtype; the result has the dtype of x."""
    adapter.to(x.device)
    dtype = next(adapter.parameters()).dtype
    return network(x.to(dtype), strength).to(x.dtype)


def _width_error(adapter, name: str, expected: int, width: int) -> str:
    model = adapter.config.about.get("base_model", "another model")
    return (
        f"the adapter was trained for {model} with {name} of width {expected}, but this conditioning has width {width}: load {model}, or "
        "another adapter"
    )


def _adapters() -> dict[str, Path]:
    """Returns name -> folder of each adapter in ComfyUI's folders, sorted by name."""
    adapters = {}
    for root in map(Path, folder_paths.get_folder_paths(KIND)):
        for config in root.rglob("config.json"):
            if (config.parent / "model.safetensors").exists():
                adapters.setdefault(config.parent.relative_to(root).as_posix(), config.parent)
    return dict(sorted(adapters.items()))


def _folder(adapter: str, path: str) -> Path:
    """Returns the folder that the two inputs of the loader name."""
    if adapter != BY_PATH:
        known = _adapters()
        if adapter not in known:
            names = ", ".join(known) or "none"
            raise FileNotFoundError(f"models/{KIND} has no adapter {adapter!r}, only {names}: put its folder there, or give a path")
        return known[adapter]
    if not path.strip():
        raise ValueError(f"no adapter is chosen: choose one of models/{KIND}, or give the path of its folder")
    return Path(path.strip()).expanduser()


NODE_CLASS_MAPPINGS = {"SURAdapterLoader": SURAdapterLoader, "SURAdapterApply": SURAdapterApply}
NODE_DISPLAY_NAME_MAPPINGS = {"SURAdapterLoader": "Load SUR-adapter", "SURAdapterApply": "Apply SUR-adapter"}
