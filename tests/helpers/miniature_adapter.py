"""An adapter for the miniature that changes what is drawn, without a training."""

from pathlib import Path

import torch

from helpers.repository import ROOT
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig

MINIATURE = str(ROOT / "models/miniature/stable-diffusion")


def adapter(folder: Path, **about) -> Path:
    """Its weights are random, far from the nothing that it starts as; it says that it was made for the miniature."""
    torch.manual_seed(0)
    made = SURAdapter(AdapterConfig(128, depth=1, heads=2, about={"base_model": MINIATURE} | about))
    with torch.no_grad():
        for weights in made.parameters():
            weights.add_(torch.randn_like(weights))
    made.save_pretrained(folder)
    return folder
