"""Two ComfyUI nodes: one loads an adapter, one adapts a CONDITIONING between CLIP Text Encode and the sampler.

A CONDITIONING is a list of pairs [prompt_embeds (B, L, d), settings]. L is a multiple of 77, because ComfyUI encodes a long prompt in
chunks and concatenates them; each chunk is adapted separately. SDXL's pooled vector is `pooled_output` of the settings.
"""

from collections.abc import Iterator
from contextlib import suppress
from math import isfinite
from pathlib import Path

import folder_paths
import torch
from torch import Tensor

KIND = "sur_adapters"  # folder in ComfyUI's models/, and key in extra_model_paths.yaml
BY_PATH = "(the path below)"
CHUNK = 77  # tokens of one CLIP call
FILES = ("config.json", "model.safetensors")  # of an adapter
OWN_STRENGTH = -1.0  # of the widget, as any value below 0: the strength in the adapter's config
PUT_IT_THERE = f"put the adapter folder into models/{KIND} and press R on the page"

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
        files = [_folder(adapter, path) / name for name in FILES]
        return " ".join(f"{file}:{file.stat().st_mtime_ns}:{file.stat().st_size}" for file in files if file.exists())

    def load(self, adapter: str, path: str = ""):
        try:
            from sur_adapter import SURAdapter
        except ImportError as error:
            raise ImportError("the package sur-adapter is not installed in ComfyUI's Python: see this node's README.md") from error
        folder = _folder(adapter, path)
        if folder.is_file():
            raise ValueError(
                f"{folder} is a file, and an adapter is a folder: convert a checkpoint of the published code (python -m sur_adapter "
                f"convert {folder.name} FOLDER), then {PUT_IT_THERE}"
            )
        if missing := [name for name in FILES if not (folder / name).exists()]:
            raise FileNotFoundError(f"{folder} holds no {missing[0]}, so it is not an adapter: {PUT_IT_THERE}, or give its path")
        return (SURAdapter.from_pretrained(folder),)


class SURAdapterApply:
    """Adapts the conditioning of a prompt. Connect it to the sampler's `positive`; do not use it for the negative prompt."""

    CATEGORY, FUNCTION = "conditioning/SUR-adapter", "apply"
    RETURN_TYPES = ("CONDITIONING",)
    DESCRIPTION = "Makes a plain sentence work as well as a keyword prompt. For the positive prompt; strength 0 changes nothing."

    @classmethod
    def INPUT_TYPES(cls):
        slider = {"default": OWN_STRENGTH, "min": OWN_STRENGTH, "max": 2.0, "step": 0.05, "round": 0.001}
        slider["tooltip"] = "Weight of the adapter: below 0 the one that is saved with it, 0 the base model, 1 the whole adapter."
        return {"required": {"conditioning": ("CONDITIONING",), "adapter": ("SUR_ADAPTER",), "strength": ("FLOAT", slider)}}

    def apply(self, conditioning: list, adapter, strength: float):
        """Returns a new CONDITIONING; the input does not change. strength: below 0, that of the adapter's config.

        Raises ValueError if its width is that of another model.
        """
        if not isfinite(strength):
            raise ValueError(
                f"strength is {strength}: give a number, 0 for the base model, 1 for the whole adapter, -1 for its own strength"
            )
        strength = adapter.config.strength if strength < 0 else strength
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
        f"the adapter was trained for {model} with {name} of width {expected}, but this conditioning has width {width}: choose {model} in "
        "Load Checkpoint, or another adapter in Load SUR-adapter"
    )


def _adapters() -> dict[str, Path]:
    """Returns name -> folder of each adapter in ComfyUI's folders, sorted by name."""
    adapters = {}
    for root in map(Path, folder_paths.get_folder_paths(KIND)):
        for folder in _folders_below(root):
            if all((folder / name).exists() for name in FILES):
                adapters.setdefault(folder.relative_to(root).as_posix(), folder)
    return dict(sorted(adapters.items()))


def _folders_below(root: Path) -> Iterator[Path]:
    """Yields the folder and all below it, through links too, as ComfyUI does for its models; it goes into a linked folder only once."""
    waiting, entered = [root], set()
    while waiting:
        folder = waiting.pop()
        yield folder
        with suppress(OSError):  # a folder that is missing or may not be read
            place = folder.resolve()
            if place not in entered:
                entered.add(place)
                waiting += sorted((child for child in folder.iterdir() if child.is_dir()), reverse=True)


def _folder(adapter: str, path: str) -> Path:
    """Returns the folder that the two inputs of the loader name."""
    if adapter != BY_PATH:
        known = _adapters()
        if adapter not in known:
            names = ", ".join(known) or "none"
            raise FileNotFoundError(f"models/{KIND} has no adapter {adapter!r}, only {names}: {PUT_IT_THERE}, or choose another")
        return known[adapter]
    if not path.strip():
        raise ValueError(f"no adapter is chosen: {PUT_IT_THERE}, or give the path of its folder")
    return Path(path.strip()).expanduser()


NODE_CLASS_MAPPINGS = {"SURAdapterLoader": SURAdapterLoader, "SURAdapterApply": SURAdapterApply}
NODE_DISPLAY_NAME_MAPPINGS = {"SURAdapterLoader": "Load SUR-adapter", "SURAdapterApply": "Apply SUR-adapter"}
