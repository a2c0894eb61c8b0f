"""What is asked of a Stable Diffusion model that stays frozen: its parts, its words, its noise."""

from hashlib import sha256

import torch
import transformers
from diffusers import DiffusionPipeline
from torch import Tensor

from sur_adapter.schema import SETTINGS_ALONE, WEIGHTS_ALONE, named


def part(model: str, cls, subfolder: str, **options):
    """One frozen part of a diffusion model, from a folder or the hub. FileNotFoundError with the cure where there is none."""
    alone = WEIGHTS_ALONE if issubclass(cls, torch.nn.Module) else SETTINGS_ALONE
    with named("models.diffusion", model, subfolder):
        return cls.from_pretrained(model, subfolder=subfolder, **alone, **options)


def pipeline(model: str) -> DiffusionPipeline:
    """The pipeline of the class that the model's own index names, without a safety checker where it would have one."""
    with named("models.diffusion", model, "pipeline"):
        checked = "safety_checker" in DiffusionPipeline.load_config(model)
        unchecked = {"safety_checker": None, "requires_safety_checker": False} if checked else {}
        pipe = DiffusionPipeline.from_pretrained(model, **WEIGHTS_ALONE, **unchecked)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class TextEncoders:
    """The frozen text encoder of Stable Diffusion 1.x and 2.x, or the two of SDXL, with their tokenizers.

    Raises ValueError for a model with encoders of another kind.
    """

    def __init__(self, model: str, device: str = "cpu"):
        with named("models.diffusion", model, "pipeline"):
            index = DiffusionPipeline.load_config(model)
        classes = {name: kind for name, (_, kind) in _parts(index) if name.startswith("text_encoder") and kind}
        if list(classes) not in (["text_encoder"], ["text_encoder", "text_encoder_2"]) or not all("CLIP" in k for k in classes.values()):
            found = ", ".join(f"{name} {kind}" for name, kind in classes.items()) or "none"
            raise ValueError(
                f"params.yaml: models.diffusion is {model!r}, whose text encoders are {found}: name a Stable Diffusion 1, 2 or XL"
            )
        self.modules = {n: part(model, getattr(transformers, kind), n).to(device).eval() for n, kind in classes.items()}
        self.tokenizers = [part(model, transformers.CLIPTokenizer, n.replace("text_encoder", "tokenizer")) for n in classes]

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> tuple[Tensor, Tensor | None]:
        """(E(p) [B, L, d], None), or of SDXL (both penultimate layers side by side [B, L, d₁ + d₂], the second's pooled vector [B, p])."""
        each = [(_ids(tokenizer, prompts), encoder) for tokenizer, encoder in zip(self.tokenizers, self.modules.values(), strict=True)]
        if len(each) == 1:
            ((ids, encoder),) = each
            return encoder(ids.to(encoder.device))[0], None
        answers = [encoder(ids.to(encoder.device), output_hidden_states=True) for ids, encoder in each]
        return torch.cat([a.hidden_states[-2] for a in answers], -1), answers[-1].text_embeds

    def lengths(self, prompts: list[str]) -> Tensor:
        """[B] int32: tokens of each prompt with its beginning and its end, before the padding."""
        ids = self.tokenizers[0](prompts, truncation=True, max_length=self.tokenizers[0].model_max_length).input_ids
        return torch.tensor([len(row) for row in ids], dtype=torch.int32)


def _parts(index: dict):
    return sorted((name, value) for name, value in index.items() if isinstance(value, (list, tuple)) and len(value) == 2)


def _ids(tokenizer, prompts: list[str]) -> Tensor:
    """[B, L], padded as Stable Diffusion pads."""
    return tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").input_ids


def noise(shape: tuple[int, ...], *names: object) -> Tensor:
    """Normal noise made on the CPU from its name: the same for every arm, batch and device."""
    seed = int.from_bytes(sha256(" ".join(map(str, names)).encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
