"""An untrained adapter for the miniature that changes the images."""

from pathlib import Path

import torch

from helpers.repository import ROOT
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig

MINIATURE = str(ROOT / "models/miniature/stable-diffusion")


def random_adapter(folder: Path, **about) -> Path:
    """Writes an adapter with random weights for the miniature into `folder`. about: more facts of its config."""
    torch.manual_seed(0)
    made = SURAdapter(AdapterConfig(128, depth=1, heads=2, about={"base_model": MINIATURE} | about))
    with torch.no_grad():
        for weights in made.parameters():
            weights.add_(torch.randn_like(weights))
    made.save_pretrained(folder)
    return folder
