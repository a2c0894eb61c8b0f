"""What the command line knows about models by name: the guidance scale they are made for, and what they can draw.

The miniature is a folder of the project. It imports nothing heavy, since `--help` shows it.
"""

from dataclasses import dataclass
from pathlib import Path

MINIATURE_DRAWS = """one to five circles, squares, triangles, stars, hearts, crosses or moons of one colour, two different of these shapes,
or a person or a robot who is standing, waving, jumping, running, sitting or lying; in red, orange, yellow, green, blue, purple, pink or
black"""


@dataclass(frozen=True)
class KnownModel:
    """guidance_scale: the model's own, if it is not the pipeline's default. draws: what it can draw, if that is little."""

    guidance_scale: float | None = None
    draws: str | None = None


KNOWN_MODELS = {  # last two parts of the path
    ("miniature", "stable-diffusion"): KnownModel(3.0, " ".join(MINIATURE_DRAWS.split())),
}


def known_model(model: str) -> KnownModel:
    """Returns what is known about a model, a path or a name on the hub."""
    return KNOWN_MODELS.get(Path(model).parts[-2:], KnownModel())


def without_folders(name: str | Path) -> str:
    """A path or a name on the hub as it may be shown to others: an absolute path without the folders of this machine."""
    return Path(name).name if Path(name).is_absolute() else str(name)
