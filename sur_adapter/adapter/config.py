"""Settings of an adapter: its section of params.yaml, and the config.json beside its weights."""

import json
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Literal, get_args

from sur_adapter.io.text import did_you_mean

Variant = Literal["sur", "paper", "official"]
VARIANTS: tuple[str, ...] = get_args(Variant)


@dataclass(frozen=True)
class AdapterParams:
    """Section `adapter` of params.yaml. Widths are not in it: they are read from the features.

    variant: the network, `sur`, `paper` (blocks.py) or `official` (official.py). depth: layers of its transformer. heads: of each layer;
    they divide the text encoder's width. whiten: whether the network's input is whitened (blocks.py); never for `official`. strength: eta,
    the scale of the adapter's output; null is 1, or 0.1 for `official`, as published.
    """

    variant: Variant = "sur"
    depth: int = 2
    heads: int = 8
    whiten: bool = True
    strength: float | None = None

    def __post_init__(self):
        for key in ("depth", "heads"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}: give at least 1")


@dataclass
class AdapterConfig:
    """The contents of config.json: what the network is, and where the adapter comes from.

    width: d of the text features. teacher_width: of the LLM's vectors; 0 if none was used. pooled_width: of SDXL's pooled vector; 0 leaves
    that vector unchanged. strength: eta; None is 1, or the published 0.1 for `official`. whiten: of AdapterParams; False for `official`.
    published_attention: for `official` only (official.py). about: base model, LLM, data, code and settings of the training.
    """

    width: int
    teacher_width: int = 0
    depth: int = 2
    heads: int = 8
    strength: float | None = None
    variant: str = "sur"
    pooled_width: int = 0
    whiten: bool = False
    published_attention: bool = False
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"adapter.variant is {self.variant!r}: choose {', '.join(VARIANTS[:-1])} or {VARIANTS[-1]}")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"adapter.heads is {self.heads}, but must divide the text encoder's width {self.width}: choose another number of heads"
            )
        if self.published_attention and self.variant != "official":
            raise ValueError(f"published_attention belongs to the variant official only: leave it out with {self.variant}")
        if self.strength is None:
            self.strength = 0.1 if self.variant == "official" else 1.0
        self.whiten = self.whiten and self.variant != "official"
        if not isfinite(self.strength):
            raise ValueError(f"adapter.strength is {self.strength}: give a number, 0 for the base model, 1 for the whole adapter")

    def min_parameters(self) -> int:
        """Returns a lower bound of the number of weights, known before the network is built."""
        return 4 * self.depth * self.width**2 + self.teacher_width * self.width + 2 * self.pooled_width**2


def read_config(file: Path) -> AdapterConfig:
    """Reads a config.json. Raises ValueError if it is none, or if a newer version of this package wrote it."""
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
        raise ValueError(f"{file} is not the config of an adapter ({error}): download or train the adapter again") from error
    raise ValueError(
        f"{file} has the unknown key {unknown[0]!r}{did_you_mean(unknown[0], known)}: use the version of this package that wrote it"
    )
