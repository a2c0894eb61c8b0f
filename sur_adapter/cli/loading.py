"""Loads an adapter with its pipeline, for the commands that generate images."""

from pathlib import Path

from sur_adapter.cli.base_model import load_base_model, resolve_device
from sur_adapter.generation.session import ComparisonSession
from sur_adapter.hub import SURAdapter
from sur_adapter.models.loading import LOADING_ERRORS

ADAPTERS = (Path("models/adapter"), Path("models/miniature/adapter"))  # written by training; committed with the project


def default_adapter() -> Path:
    """Returns the first of ADAPTERS that is here, as a Path, so that it is never looked up on the hub; the first one if none is."""
    return next((folder for folder in ADAPTERS if (folder / "config.json").exists()), ADAPTERS[0])


def load_session(
    adapter: str | Path | None = None,
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "fp32",
) -> ComparisonSession:
    """Loads an adapter and a diffusion model, folders or names on the hub, onto the GPU if there is one.

    adapter: by default `default_adapter()`. model: also a single .safetensors file; by default the model that the adapter was trained for.
    revision: of the adapter on the hub. device: of torch, or "auto". dtype: of all parts of the model, fp32, fp16 or bf16.
    Raises FileNotFoundError or ValueError, in one sentence, if they cannot be loaded or do not fit each other.
    """
    device = resolve_device(device)
    adapter = default_adapter() if adapter is None else adapter
    loaded = SURAdapter.from_pretrained(adapter, revision=revision)
    about = loaded.config.about
    base = about.get("base_model") if isinstance(about, dict) else None
    name = model or base
    if not name:
        raise ValueError(f"{adapter} does not say which diffusion model it was trained for: name one with --model")
    if Path(name).is_file():
        pipe = load_base_model(str(name), dtype, config=base)
    else:
        try:
            pipe = load_base_model(str(name), dtype)
        except LOADING_ERRORS as error:
            role = "the model" if model else f"the base model of {adapter}"
            raise FileNotFoundError(
                f"{role} is {str(name)!r}, where no diffusion model can be loaded: give --model, a folder that holds one or a name on the "
                "hub"
            ) from error
    return ComparisonSession(pipe.to(device), loaded, str(name))
