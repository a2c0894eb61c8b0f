"""Stable Diffusion 1.x, 2.x and XL: loading, prompt encoding, the U-Net call, cross-attention layers and latent scaling.

Everything that depends on the family of the base model is in this file; a new family is one more class in `FAMILIES`. diffusers and
transformers are imported inside the functions that use them: they take seconds, and training on cached features needs neither.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LATENT_STRIDE = 8  # pixels per latent, each way
DEFAULT_SCALING_FACTOR = 0.18215  # of VAE configs that name none, as published for SD 1.x


class StableDiffusion:
    """The family of Stable Diffusion 1.x and 2.x: one CLIP text encoder, the U-Net takes its last hidden states."""

    text_encoders: tuple[str, ...] = ("text_encoder",)
    addition_embed_type: str | None = None  # `addition_embed_type` of the U-Net's config

    def encode(self, encoders: list[nn.Module], token_ids: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Encodes the token ids of each encoder, (B, L) each: prompt_embeds (B, L, d), pooled_prompt_embeds (B, p) or None."""
        return encoders[0](token_ids[0])[0], None

    def added_conditions(self, noisy_latents: Tensor, pooled_prompt_embeds: Tensor | None, time_ids: Tensor | None) -> dict | None:
        """Returns `added_cond_kwargs` of the U-Net."""
        return None


class StableDiffusionXL(StableDiffusion):
    """The family of SDXL: two CLIP text encoders side by side, and beside them a pooled vector and the size of the image."""

    text_encoders = ("text_encoder", "text_encoder_2")
    addition_embed_type = "text_time"

    def encode(self, encoders: list[nn.Module], token_ids: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Returns both encoders' penultimate layers, concatenated, (B, L, d₁ + d₂), and the second encoder's pooled vector, (B, p)."""
        outputs = [encoder(ids, output_hidden_states=True) for encoder, ids in zip(encoders, token_ids, strict=True)]
        return torch.cat([output.hidden_states[-2] for output in outputs], -1), outputs[-1].text_embeds

    def added_conditions(self, noisy_latents: Tensor, pooled_prompt_embeds: Tensor | None, time_ids: Tensor | None) -> dict | None:
        """Returns the pooled vector and time ids; without time_ids (B, 6) the image counts as uncropped.

        Raises ValueError without pooled_prompt_embeds (B, p).
        """
        if pooled_prompt_embeds is None:
            raise ValueError("this U-Net needs pooled prompt embeddings (SDXL), and the cache holds none: run `dvc repro` to cache them")
        if time_ids is None:
            size = [side * LATENT_STRIDE for side in noisy_latents.shape[-2:]]
            time_ids = torch.tensor([*size, 0, 0, *size], device=noisy_latents.device).expand(len(noisy_latents), -1)  # (B, 6)
        return {"text_embeds": pooled_prompt_embeds, "time_ids": time_ids}


FAMILIES = (StableDiffusion(), StableDiffusionXL())


def family_of_unet(unet: nn.Module) -> StableDiffusion:
    """Finds the family of a U-Net. Raises ValueError if it takes conditions of another kind."""
    kind = getattr(unet.config, "addition_embed_type", None)
    for family in FAMILIES:
        if family.addition_embed_type == kind:
            return family
    raise ValueError(
        f"the U-Net takes conditions of the kind {kind!r}: params.yaml: models.diffusion must be a Stable Diffusion 1, 2 or XL"
    )


class TextEncoders:
    """The frozen text encoders of a model, with their tokenizers. Raises ValueError for a model whose encoders are of no known family."""

    def __init__(self, model: str, device: str = "cpu"):
        import transformers
        from diffusers import DiffusionPipeline

        with loading_errors("models.diffusion", model, "pipeline"):
            index = DiffusionPipeline.load_config(model)
        components = {name: value[1] for name, value in sorted(index.items()) if isinstance(value, list | tuple) and len(value) == 2}
        classes = {name: cls for name, cls in components.items() if name.startswith("text_encoder") and cls}
        families = [family for family in FAMILIES if family.text_encoders == tuple(classes)]
        if not families or not all("CLIP" in cls for cls in classes.values()):
            listed = ", ".join(f"{name} {cls}" for name, cls in classes.items()) or "none"
            raise ValueError(
                f"params.yaml: models.diffusion is {model!r}, whose text encoders are {listed}: name a Stable Diffusion 1, 2 or XL"
            )
        self.family = families[0]
        self.modules = {n: load_component(model, getattr(transformers, cls), n).to(device).eval() for n, cls in classes.items()}
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in classes]
        self.tokenizers = [load_component(model, transformers.CLIPTokenizer, name) for name in tokenizers]

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> tuple[Tensor, Tensor | None]:
        """Encodes prompts as the model's own pipeline does: prompt_embeds (B, L, d), pooled_prompt_embeds (B, p) or None."""
        encoders = list(self.modules.values())
        ids = [_token_ids(tokenizer, prompts).to(encoder.device) for tokenizer, encoder in zip(self.tokenizers, encoders, strict=True)]
        return self.family.encode(encoders, ids)

    def lengths(self, prompts: list[str]) -> Tensor:
        """Counts the tokens of each prompt with its start and end token, without padding: (B,) int32."""
        ids = self.tokenizers[0](prompts, truncation=True, max_length=self.tokenizers[0].model_max_length).input_ids
        return torch.tensor([len(row) for row in ids], dtype=torch.int32)


def _token_ids(tokenizer, prompts: list[str]) -> Tensor:
    """Tokens of each prompt, padded and truncated to the model's length: (B, L)."""
    return tokenizer(prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").input_ids


def encode_empty_prompt(model: str) -> Tensor:
    """Returns the prompt_embeds of the empty prompt, (L, d) fp32 on the CPU. Loads the text encoders for this and frees them."""
    return TextEncoders(model)([""])[0][0].float().cpu()


def predict_noise(
    unet: nn.Module,
    noisy_latents: Tensor,
    timesteps: Tensor,
    prompt_embeds: Tensor,
    pooled_prompt_embeds: Tensor | None = None,
    time_ids: Tensor | None = None,
) -> Tensor:
    """Calls the U-Net: its prediction (B, 4, h, w), fp32, computed in the dtype of its weights.

    noisy_latents (B, 4, h, w), timesteps (B,), prompt_embeds (B, L, d). SDXL also takes pooled_prompt_embeds (B, p) and time_ids (B, 6):
    original height and width, top and left of the crop, target height and width, in pixels.
    """
    conditions = family_of_unet(unet).added_conditions(noisy_latents, pooled_prompt_embeds, time_ids)
    target = {"device": noisy_latents.device, "dtype": unet.dtype}
    if conditions is not None:
        conditions = {name: values.to(**target) for name, values in conditions.items()}
    with torch.autocast(noisy_latents.device.type, enabled=False):
        prediction = unet(noisy_latents.to(unet.dtype), timesteps, prompt_embeds.to(unet.dtype), added_cond_kwargs=conditions).sample
    return prediction.float()


def cross_attention_layers(unet: nn.Module) -> dict[str, nn.Module]:
    """Returns the layers of the U-Net that attend to the prompt, by name. Each has `heads`, `to_q`, `to_k`, `to_v` and `to_out`."""
    return {name: module for name, module in unet.named_modules() if name.endswith("attn2")}


def scale_latents(latents: Tensor, vae_config: Mapping) -> Tensor:
    """Scales latents of the VAE, of any shape, for the U-Net: z = (latents − shift_factor) · scaling_factor."""
    return (latents - (vae_config.get("shift_factor") or 0)) * vae_config.get("scaling_factor", DEFAULT_SCALING_FACTOR)


def load_component(model: str, cls, subfolder: str, **options):
    """Loads one component of a diffusion model from a folder or the hub. Raises FileNotFoundError that says how to fix it."""
    safe = SAFETENSORS_ONLY if issubclass(cls, nn.Module) else NO_REMOTE_CODE
    with loading_errors("models.diffusion", model, subfolder):
        return cls.from_pretrained(model, subfolder=subfolder, **safe, **options)


SCHEDULERS = {  # name in params.yaml: class of diffusers, its options; only such as draw no noise of their own
    "ddim": ("DDIMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def load_pipeline(model: str, scheduler: str | None = None) -> "DiffusionPipeline":
    """Loads a pipeline of the class that the model's index names, without its safety checker and progress bar.

    scheduler: a name of SCHEDULERS, which takes the noise levels of the model's own; None: the model's own.
    """
    import diffusers

    with loading_errors("models.diffusion", model, "pipeline"):
        has_checker = "safety_checker" in diffusers.DiffusionPipeline.load_config(model)
        options = {"safety_checker": None, "requires_safety_checker": False} if has_checker else {}
        pipe = diffusers.DiffusionPipeline.from_pretrained(model, **SAFETENSORS_ONLY, **options)
    if scheduler:
        class_name, options = SCHEDULERS[scheduler]
        pipe.scheduler = getattr(diffusers, class_name).from_config(pipe.scheduler.config, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_vae_config(model: str) -> dict:
    """Loads the config of a model's VAE, for `scale_latents`, without its weights."""
    from diffusers import AutoencoderKL

    with loading_errors("models.diffusion", model, "vae"):
        return dict(AutoencoderKL.load_config(model, subfolder="vae"))


def load_frozen_unet(
    model: str,
    device: str,
    dtype: torch.dtype,
    *,
    rescale_betas_zero_snr: bool = False,
    compile_unet: bool = False,
    channels_last: bool = False,
    gradient_checkpointing: bool = False,
) -> tuple[nn.Module, object]:
    """Loads the U-Net, without gradients of its own and with weights of `dtype`, and the training scheduler.

    rescale_betas_zero_snr: noise alone at the last timestep (arXiv 2305.08891). gradient_checkpointing: activations are recomputed in the
    backward pass.
    """
    from diffusers import DDPMScheduler, UNet2DConditionModel

    unet = load_component(model, UNet2DConditionModel, "unet").eval().requires_grad_(False)
    nn.Module.to(unet, device, dtype)  # diffusers' own `to` warns about layers to keep in fp32, which a U-Net does not have
    if channels_last:
        unet = unet.to(memory_format=torch.channels_last)
    if gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if compile_unet:
        unet.compile()
    scheduler = load_component(model, DDPMScheduler, "scheduler")
    if rescale_betas_zero_snr:
        scheduler = DDPMScheduler.from_config(scheduler.config, rescale_betas_zero_snr=True)
    return unet, scheduler
