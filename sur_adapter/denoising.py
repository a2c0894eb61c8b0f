"""The diffusion term: how latents are noised, what the frozen U-Net is asked, and how its answer is weighed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sur_adapter import loss
from sur_adapter.portion import Portion


@dataclass
class Denoising:
    """The choices; today's common ones unless given.

    snr_gamma: γ of Min-SNR weights (arXiv 2303.09556). offset_noise: share of noise that is one number a channel.
    target: `noise` (or the velocity, as the scheduler says), or `complex`: what the U-Net itself predicts under the complex prompt.
    t_min ≤ t < t_max: the times that are drawn.
    """

    snr_gamma: float | None = None
    offset_noise: float = 0.0
    target: str = "noise"
    t_min: int = 0
    t_max: int | None = None

    def check(self, scheduler) -> None:
        """ValueError for times and kinds of prediction that this scheduler does not have."""
        kind, last = getattr(scheduler.config, "prediction_type", "epsilon"), scheduler.config.num_train_timesteps
        if kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"this U-Net predicts {kind!r}: the diffusion loss knows epsilon and v_prediction; set loss.w_diffusion to 0")
        if not 0 <= self.t_min < (last if self.t_max is None else self.t_max) <= last:
            raise ValueError(
                f"params.yaml: loss.t_min is {self.t_min} and loss.t_max {self.t_max}: choose 0 <= t_min < t_max <= {last}, or null"
            )
        if kind == "epsilon" and scheduler.alphas_cumprod[-1] < 1e-8:
            raise ValueError(
                "params.yaml: loss.zero_snr asks for a U-Net that predicts the velocity; this one predicts noise: set it to false"
            )

    def __call__(
        self, unet: nn.Module, scheduler, z: Tensor, adapted: dict[str, Tensor], complex: dict[str, Tensor], portion: Portion
    ) -> Tensor:
        """z [B, 4, h, w] of the picture; adapted and complex: `words` [B, L, d], and for SDXL `pooled` [B, p], `frame` [B, 6]."""
        noise = portion.normal(z)
        if self.offset_noise:
            noise = noise + self.offset_noise * portion.normal(z[:, :, :1, :1])
        last = scheduler.config.num_train_timesteps if self.t_max is None else self.t_max
        t = portion(torch.randint(self.t_min, last, (len(z) * portion.count,), device=z.device))  # (B,)
        noised = scheduler.add_noise(z, noise, t)
        kind = getattr(scheduler.config, "prediction_type", "epsilon")
        if self.target == "complex":
            with torch.no_grad():
                target = predict(unet, noised, t, **complex)
        else:
            target = scheduler.get_velocity(z, noise, t) if kind == "v_prediction" else noise
        weight = loss.min_snr(snr(scheduler, t), self.snr_gamma, kind) if self.snr_gamma else None
        return loss.diffusion(target, predict(unet, noised, t, **adapted), weight)


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


def snr(scheduler, t: Tensor) -> Tensor:
    """ᾱ_t / (1 − ᾱ_t), [B]."""
    alpha = scheduler.alphas_cumprod.to(t.device)[t]
    return alpha / (1 - alpha)


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

    from sur_adapter.diffusion import part

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
    from sur_adapter.diffusion import TextEncoders

    return TextEncoders(model)([""])[0][0].float().cpu()
