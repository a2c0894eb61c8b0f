"""The network between the frozen text encoder and the frozen U-Net (arXiv 2305.05189, section 4), and its files.

    q = h3(x)         k = h2(x)
    A = softmax(q kᵀ / √d)        u = A x + x        (`paper`)        u = A x + x + q        (`sur`)
    o = x + g(u + h1(u))          c' = eta·o + (1 − eta)·x

x [B, L, d] are the text encoder's hidden states of the simple prompt, c' what the U-Net gets. g starts as nothing, so
that an untrained adapter is the identity, bit for bit. Attention runs over the tokens of one prompt, never the batch.
In the paper q does no more than steer one head of attention over x; in `sur` what it has learned is handed on as well.
`official` is the network of the published code, in official.py.

SDXL's U-Net is given a pooled vector p [B, p] beside the tokens. Where `pooled_width` is set it is adapted too, by

    p' = p + eta·MLP(p)           whose last layer starts as nothing
"""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from sur_adapter.adapter.config import AdapterConfig, _config
from sur_adapter.io import checksummed_safetensors as sealed
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.models.fingerprint import fingerprint  # noqa: F401  the caches ask for it here


class SURAdapter(nn.Module):
    """SURAdapter(config) is the network of the config's variant, whichever that is."""

    def __new__(cls, config: AdapterConfig | None = None):  # none: a copy, whose content comes later
        if config is not None and config.variant == "official":
            from sur_adapter.adapter.official import OfficialAdapter as cls
        return super().__new__(cls)

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.config = config
        self._build(config)
        self.projection = nn.Linear(config.teacher_width, config.width) if config.teacher_width else None  # FCN: teacher to d
        self.pooled = _residual(config.pooled_width) if config.pooled_width else None

    def _build(self, config: AdapterConfig) -> None:
        d = config.width
        layer = nn.TransformerEncoderLayer(d, config.heads, 4 * d, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(d)
        self.h3 = nn.TransformerEncoder(layer, config.depth, norm=nn.LayerNorm(d), enable_nested_tensor=False)
        self.h2 = nn.Linear(d, d, bias=False)  # softmax takes out again what would be added to every key
        self.h1 = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.g = nn.Linear(d, d)
        nn.init.zeros_(self.g.weight)
        nn.init.zeros_(self.g.bias)

    def query(self, x: Tensor) -> Tensor:
        """q = h3(x): what the teacher's knowledge is distilled into. [B, L, d] -> [B, L, d]."""
        return self.h3(self.norm(x))

    def forward(self, x: Tensor, strength: float | None = None) -> Tensor:
        """c' [B, L, d] for x [B, L, d]; `strength` is eta, the config's unless given."""
        return self.adapt(x, self.query(x), strength)

    def adapt(self, x: Tensor, q: Tensor, strength: float | None = None) -> Tensor:
        """c' from x and the q already computed, [B, L, d] each."""
        eta = self.config.strength if strength is None else strength
        k = self.h2(self.norm(x))  # (B, L, d)
        u = nn.functional.scaled_dot_product_attention(q, k, x) + x  # A x + x
        if self.config.variant == "sur":
            u = u + q
        return x + eta * self.g(u + self.h1(u))

    def pool(self, p: Tensor, strength: float | None = None) -> Tensor:
        """p' [B, p] for SDXL's pooled vector p [B, p]; p itself where the config has no `pooled_width`."""
        eta = self.config.strength if strength is None else strength
        return p if self.pooled is None else p + eta * self.pooled(p)

    def save_pretrained(self, folder: str | Path) -> None:
        """config.json and model.safetensors."""
        folder = Path(folder)
        atomic_write_text(folder / "config.json", json.dumps(asdict(self.config), indent=2, sort_keys=True) + "\n")
        sealed.save(self.state_dict(), folder / "model.safetensors")

    def push_to_hub(self, name: str, **options) -> str:
        """Config, weights and a model card to `name` (owner/name) on the hub; the commit's address. options: hub.push says which."""
        import sur_adapter  # its door, not the file behind it: no stage sends anything, and a card's words are no reason to train anew

        return sur_adapter.push(self, name, **options)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, revision: str | None = None) -> "SURAdapter":
        """The adapter of a folder that `save_pretrained` wrote, in evaluation mode. A str that is no path here is a name on the hub
        (owner/name), and `revision` a branch, tag or commit there; a Path is always a folder. FileNotFoundError where there is none,
        ValueError where it cannot be read or config and weights are not of one adapter."""
        if isinstance(folder, str) and not Path(folder).exists():
            import sur_adapter

            folder = sur_adapter.fetch(folder, revision)
        elif revision:
            raise ValueError(f"{folder} is a folder, and a revision is of what is on the hub: leave revision={revision!r} out")
        folder = Path(folder)
        if folder.is_file():
            raise FileNotFoundError(f"{folder} is no folder: `python -m sur_adapter convert {folder} FOLDER` makes a checkpoint an adapter")
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).exists():
                raise FileNotFoundError(f"{folder} holds no {name}: train an adapter (`dvc repro`), or name a folder that holds one")
        config, size = _config(folder / "config.json"), (folder / "model.safetensors").stat().st_size
        try:
            if config.least_weights() > size:  # before they take up memory
                raise SafetensorError(f"it has {size} bytes")
            adapter = SURAdapter(config)
            adapter.load_state_dict(sealed.load(folder / "model.safetensors")[0])
        except (RuntimeError, SafetensorError) as error:
            first = str(error).splitlines()[-1].strip()
            raise ValueError(
                f"{folder}/model.safetensors does not hold the weights that its config.json tells of ({first}): fetch or train it anew"
            ) from error
        return adapter.eval().requires_grad_(False)


def _residual(p: int) -> nn.Sequential:
    """MLP(p), nothing at the start."""
    layers = nn.Sequential(nn.LayerNorm(p), nn.Linear(p, p), nn.GELU(), nn.Linear(p, p))
    nn.init.zeros_(layers[-1].weight)
    nn.init.zeros_(layers[-1].bias)
    return layers
