"""Loads an adapter with its pipeline, for the commands that generate images."""

from pathlib import Path

from sur_adapter.generation.session import ComparisonSession
from sur_adapter.hub import SURAdapter
from sur_adapter.models.stable_diffusion import load_pipeline
from sur_adapter.models.torch_utils import resolve_device


def load_session(adapter: str | Path, model: str | Path | None = None, *, revision: str | None = None) -> ComparisonSession:
    """Loads an adapter and a diffusion model, folders or names on the hub, onto the GPU if there is one.

    model: by default the one that the adapter was trained for. revision: of the adapter on the hub.
    Raises FileNotFoundError or ValueError, in one sentence, if they cannot be loaded or do not fit each other.
    """
    loaded = SURAdapter.from_pretrained(adapter, revision=revision)
    about = loaded.config.about
    name = model or (about.get("base_model") if isinstance(about, dict) else None)
    if not name:
        raise ValueError(f"{adapter} does not say which diffusion model it was trained for: name one with --model")
    try:
        pipe = load_pipeline(str(name))
    except FileNotFoundError as error:
        role = "the model" if model else f"the base model of {adapter}"
        raise FileNotFoundError(
            f"{role} is {str(name)!r}, where no diffusion model can be loaded: give --model, a folder that holds one or a name on the hub"
        ) from error
    return ComparisonSession(pipe.to(resolve_device()), loaded, str(name))
