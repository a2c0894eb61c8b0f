"""Loads the frozen parts of a Stable Diffusion model, encodes prompts with them, and calls the U-Net.

diffusers and transformers are imported where they are used: training on cached features needs neither, and they take seconds to import.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def part(model: str, cls, subfolder: str, **options):
    """One frozen part of a diffusion model, from a folder or the hub. FileNotFoundError with the cure where there is none."""
    alone = SAFETENSORS_ONLY if issubclass(cls, torch.nn.Module) else NO_REMOTE_CODE
    with loading_errors("models.diffusion", model, subfolder):
        return cls.from_pretrained(model, subfolder=subfolder, **alone, **options)


def pipeline(model: str) -> "DiffusionPipeline":
    """The pipeline of the class that the model's own index names, without a safety checker where it would have one."""
    from diffusers import DiffusionPipeline

    with loading_errors("models.diffusion", model, "pipeline"):
        checked = "safety_checker" in DiffusionPipeline.load_config(model)
        unchecked = {"safety_checker": None, "requires_safety_checker": False} if checked else {}
        pipe = DiffusionPipeline.from_pretrained(model, **SAFETENSORS_ONLY, **unchecked)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class TextEncoders:
    """The frozen text encoder of Stable Diffusion 1.x and 2.x, or the two of SDXL, with their tokenizers.

    Raises ValueError for a model with encoders of another kind.
    """

    def __init__(self, model: str, device: str = "cpu"):
        import transformers
        from diffusers import DiffusionPipeline

        with loading_errors("models.diffusion", model, "pipeline"):
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


def predict(unet: nn.Module, noised: Tensor, t: Tensor, words: Tensor, pooled: Tensor | None = None, frame: Tensor | None = None) -> Tensor:
    """UNet(z_t, t, words), fp32. The U-Net reckons in the precision of its own weights.

    With `pooled`, as SDXL asks for it, and `frame`, its time ids: how the picture was cut. Without one it is taken for uncut.
    """
    kind, added = unet.dtype, None
    if pooled is not None:
        side = [n * 8 for n in noised.shape[-2:]]  # pixels: a latent stands for 8 × 8
        uncut = torch.tensor([*side, 0, 0, *side], device=noised.device).expand(len(noised), -1)  # (B, 6)
        added = {"text_embeds": pooled.to(kind), "time_ids": (uncut if frame is None else frame).to(kind)}
    elif getattr(unet.config, "addition_embed_type", None) == "text_time":
        raise ValueError(
            "this U-Net asks for pooled vectors beside the words (SDXL), and the cache holds none: run `dvc repro` to cache them"
        )
    with torch.autocast(noised.device.type, enabled=False):
        return unet(noised.to(kind), t, words.to(kind), added_cond_kwargs=added).sample.float()


def frozen(
    model: str,
    where: str,
    dtype: torch.dtype,
    *,
    zero_snr: bool = False,
    compile: bool = False,
    channels_last: bool = False,
    gradient_checkpointing: bool = False,
) -> tuple[nn.Module, object, float]:
    """(U-Net, scheduler, scaling of the latents) of a diffusion model. The U-Net has no gradients of its own, and weights of `dtype`.

    zero_snr: the last time is noise alone (arXiv 2305.08891). gradient_checkpointing: activations are reckoned again on the way back.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel  # seconds to import, and not needed by the other terms

    unet = part(model, UNet2DConditionModel, "unet").eval().requires_grad_(False)
    nn.Module.to(unet, where, dtype)  # diffusers' own `to` warns of layers to be spared, of which a U-Net has none
    if channels_last:
        unet = unet.to(memory_format=torch.channels_last)
    if gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if compile:
        unet.compile()
    scheduler = part(model, DDPMScheduler, "scheduler")
    if zero_snr:
        scheduler = DDPMScheduler.from_config(scheduler.config, rescale_betas_zero_snr=True)
    return unet, scheduler, AutoencoderKL.load_config(model, subfolder="vae")["scaling_factor"]


def empty_prompt(model: str) -> Tensor:
    """Features of the empty prompt, [L, d]. The text encoder is loaded for it alone, and not held."""
    return TextEncoders(model)([""])[0][0].float().cpu()
