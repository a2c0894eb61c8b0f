"""The settings of an adapter, saved as config.json beside its weights."""

import json
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from sur_adapter.config import did_you_mean
from sur_adapter.models.fingerprint import fingerprint  # noqa: F401  the caches ask for it here

VARIANTS = ("sur", "paper", "official")


@dataclass
class AdapterConfig:
    """width d of the text features, teacher_width of the LLM (0: none), pooled_width of SDXL's pooled vector (0: it is left
    alone), and in `about` where the adapter comes from. strength is 1, or the published 0.1 of `official`, unless given."""

    width: int
    teacher_width: int = 0
    depth: int = 2
    heads: int = 8
    strength: float | None = None
    variant: str = "sur"
    pooled_width: int = 0
    published_attention: bool = False  # of `official` alone: official.py says what it is
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"adapter.variant is {self.variant!r}: choose {', '.join(VARIANTS[:-1])} or {VARIANTS[-1]}")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"adapter.heads is {self.heads}, but must divide the text encoder's width {self.width}: choose another number of heads"
            )
        if self.published_attention and self.variant != "official":
            raise ValueError(f"published_attention is of the variant official alone: leave it out with {self.variant}")
        if self.strength is None:
            self.strength = 0.1 if self.variant == "official" else 1.0
        if not isfinite(self.strength):
            raise ValueError(f"adapter.strength is {self.strength}: give a number, 0 for the base model, 1 for the whole adapter")

    def least_weights(self) -> int:
        """No network of this config has fewer."""
        return 4 * self.depth * self.width**2 + self.teacher_width * self.width + 2 * self.pooled_width**2


def _config(file: Path) -> AdapterConfig:
    known = AdapterConfig.__dataclass_fields__.keys()
    try:
        values = json.loads(file.read_text())
        unknown = sorted(values.keys() - known)
        for key, least in {"width": 1, "depth": 1, "heads": 1, "teacher_width": 0, "pooled_width": 0}.items():
            if not unknown and (type(values.get(key, least)) is not int or values.get(key, least) < least):
                raise ValueError(f"{key} is {values[key]!r}")
        if not unknown:
            return AdapterConfig(**values)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is no config of an adapter ({error}): fetch or train the adapter anew") from error
    raise ValueError(
        f"{file} has the unknown key {unknown[0]!r}{did_you_mean(unknown[0], known)}: take the version of this package that wrote it"
    )
