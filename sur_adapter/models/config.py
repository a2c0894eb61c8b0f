"""Which pretrained models a run uses."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelsConfig:
    """Section `models` of params.yaml.

    diffusion, llm: folders or names on the hub. resolution: side of the square images, in pixels, for features and for generation.
    """

    diffusion: str
    resolution: int
    llm: str | None = None

    def __post_init__(self):
        if self.resolution < 8:
            raise ValueError(f"resolution is {self.resolution}: give the side of the images in pixels, such as 512")
