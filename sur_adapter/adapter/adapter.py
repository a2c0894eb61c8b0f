"""The adapter: a small network between the frozen text encoder and the frozen U-Net (arXiv 2305.05189, section 4), and its files.

    x = E(prompt)  ->  q = query(x)  ->  c' = adapt(x, q)        (B, L, d) each

x are the text encoder's hidden states of the simple prompt, q is what the LLM's knowledge is distilled into, and c' is what the U-Net gets
in place of x. The equations are in blocks.py (variants `sur` and `paper`) and official.py (the published code).

SDXL's U-Net also takes a pooled vector p (B, p). With `pooled_width` it is adapted too: p' = p + eta·MLP(p).
"""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from sur_adapter.adapter.blocks import PaperBlock, PooledBlock, SURBlock
from sur_adapter.adapter.config import AdapterConfig, read_config
from sur_adapter.adapter.official import OfficialBlock
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.checksummed_safetensors import load_checked, save_checked

BLOCKS = {"sur": SURBlock, "paper": PaperBlock, "official": OfficialBlock}
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class SURAdapter(nn.Module):
    """The network of a config, with the projection of the LLM's vectors that its training uses."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.config = config
        self.block = BLOCKS[config.variant](config)
        self.projection = nn.Linear(config.teacher_width, config.width) if config.teacher_width else None  # FCN of the paper
        self.pooled = PooledBlock(config.pooled_width) if config.pooled_width else None

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        """Returns c' (B, L, d) for x (B, L, d). scale: eta; by default the config's strength."""
        return self.adapt(x, self.query(x), scale)

    def query(self, x: Tensor, log_weight: Tensor | None = None) -> Tensor:
        """Computes the query q (B, L, d) of x (B, L, d). log_weight (B, L): of tokens that stand for several (blocks.py), in training."""
        return self.block.query(x, **_weights(log_weight))

    def adapt(self, x: Tensor, q: Tensor, scale: float | None = None, log_weight: Tensor | None = None) -> Tensor:
        """Returns c' (B, L, d) for x and a query that is already computed, (B, L, d) each. log_weight: as in `query`."""
        return self.block.adapt(x, q, self.config.strength if scale is None else scale, **_weights(log_weight))

    def pool(self, p: Tensor, scale: float | None = None) -> Tensor:
        """Returns p' (B, p) for SDXL's pooled vector p (B, p); p itself if the config has no `pooled_width`."""
        return p if self.pooled is None else p + (self.config.strength if scale is None else scale) * self.pooled(p)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors. In the file, the names of the block's tensors have no prefix."""
        folder = Path(folder)
        atomic_write_text(folder / CONFIG_FILE, json.dumps(asdict(self.config), indent=2, sort_keys=True) + "\n")
        tensors = {name.removeprefix("block."): tensor for name, tensor in self.state_dict().items()}
        save_checked(tensors, folder / WEIGHTS_FILE)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "SURAdapter":
        """Loads an adapter that `save_pretrained` wrote, in evaluation mode and without gradients. `hub.SURAdapter` also takes hub names.

        Raises FileNotFoundError if there is none, and ValueError if it cannot be read or its weights do not fit its config.
        """
        folder = Path(folder)
        if folder.is_file():
            raise FileNotFoundError(f"{folder} is not a folder: convert a checkpoint with `python -m sur_adapter convert {folder} FOLDER`")
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).exists():
                raise FileNotFoundError(f"{folder} holds no {name}: train an adapter (`dvc repro`), or name a folder that holds one")
        config, size = read_config(folder / CONFIG_FILE), (folder / WEIGHTS_FILE).stat().st_size
        try:
            if config.min_parameters() > size:  # before the memory for them is allocated
                raise SafetensorError(f"it has {size} bytes")
            adapter = cls(config)
            tensors, _ = load_checked(folder / WEIGHTS_FILE)
            others = ("projection.", "pooled.")
            adapter.load_state_dict({name if name.startswith(others) else f"block.{name}": t for name, t in tensors.items()})
        except (RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(
                f"{folder / WEIGHTS_FILE} does not hold the weights that its config.json describes ({reason}): download or train it again"
            ) from error
        return adapter.eval().requires_grad_(False)


def _weights(log_weight: Tensor | None) -> dict:
    return {} if log_weight is None else {"log_weight": log_weight}  # the published network takes none
