"""The network between the frozen text encoder and the frozen U-Net (arXiv 2305.05189, section 4), and its files.

    q = h3(x)         k = h2(x)
    A = softmax(q kᵀ / √d)        u = A x + x        (`paper`)        u = A x + x + q        (`sur`)
    o = x + g(u + h1(u))          c' = eta·o + (1 − eta)·x

x [B, L, d] are the text encoder's hidden states of the simple prompt, c' what the U-Net gets. g starts as nothing, so
that an untrained adapter is the identity, bit for bit. Attention runs over the tokens of one prompt, never the batch.
In the paper q does no more than steer one head of attention over x; in `sur` what it has learned is handed on as well.
"""

import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

VARIANTS = ("sur", "paper")


@dataclass
class AdapterConfig:
    """width d of the text encoder, teacher_width of the LLM (0: none), and in `about` where the adapter comes from."""

    width: int
    teacher_width: int = 0
    depth: int = 2
    heads: int = 8
    strength: float = 1.0
    variant: str = "sur"  # or "paper"
    about: dict = field(default_factory=dict)


class SURAdapter(nn.Module):
    def __init__(self, config: AdapterConfig):
        super().__init__()
        d = config.width
        if config.variant not in VARIANTS:
            raise ValueError(f"adapter.variant is {config.variant!r}: choose {' or '.join(VARIANTS)}")
        if d % config.heads:
            raise ValueError(
                f"adapter.heads is {config.heads}, but must divide the text encoder's width {d}: choose another number of heads"
            )
        self.config = config
        layer = nn.TransformerEncoderLayer(d, config.heads, 4 * d, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(d)
        self.h3 = nn.TransformerEncoder(layer, config.depth, norm=nn.LayerNorm(d), enable_nested_tensor=False)
        self.h2 = nn.Linear(d, d)
        self.h1 = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.g = nn.Linear(d, d)
        self.projection = nn.Linear(config.teacher_width, d) if config.teacher_width else None  # FCN: teacher to d
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

    def save_pretrained(self, folder: str | Path) -> None:
        """config.json and model.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=2, sort_keys=True) + "\n")
        save_file({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "SURAdapter":
        """The adapter of a folder that `save_pretrained` wrote, in evaluation mode. FileNotFoundError where there is none."""
        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).exists():
                raise FileNotFoundError(f"{folder} holds no {name}: train an adapter (`dvc repro`), or name a folder that holds one")
        adapter = cls(AdapterConfig(**json.loads((folder / "config.json").read_text())))
        adapter.load_state_dict(load_file(folder / "model.safetensors"))
        return adapter.eval().requires_grad_(False)


@torch.no_grad()
def fingerprint(text_encoder: nn.Module) -> str:
    """Sixteen hex digits that tell text encoders apart: of their position embeddings and last norm, as fp16."""
    state = text_encoder.state_dict()
    chosen = sorted(k for k in state if k.endswith(("position_embedding.weight", "final_layer_norm.weight")))
    digest = sha256()
    for key in chosen:
        digest.update(state[key].to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
