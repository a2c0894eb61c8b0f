"""The diffusion term: how latents are noised, what the frozen U-Net is asked, and how its answer is weighed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sur_adapter.models.stable_diffusion import predict_noise
from sur_adapter.training import losses as loss
from sur_adapter.training.distributed import DistributedContext


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
        self, unet: nn.Module, scheduler, z: Tensor, adapted: dict[str, Tensor], complex: dict[str, Tensor], portion: DistributedContext
    ) -> Tensor:
        """z [B, 4, h, w] of the picture; adapted and complex: prompt_embeds, pooled_prompt_embeds and time_ids of `predict_noise`."""
        noise = portion.normal(z)
        if self.offset_noise:
            noise = noise + self.offset_noise * portion.normal(z[:, :, :1, :1])
        last = scheduler.config.num_train_timesteps if self.t_max is None else self.t_max
        t = portion(torch.randint(self.t_min, last, (len(z) * portion.count,), device=z.device))  # (B,)
        noised = scheduler.add_noise(z, noise, t)
        kind = getattr(scheduler.config, "prediction_type", "epsilon")
        if self.target == "complex":
            with torch.no_grad():
                target = predict_noise(unet, noised, t, **complex)
        else:
            target = scheduler.get_velocity(z, noise, t) if kind == "v_prediction" else noise
        weight = loss.min_snr(snr(scheduler, t), self.snr_gamma, kind) if self.snr_gamma else None
        return loss.diffusion(target, predict_noise(unet, noised, t, **adapted), weight)


def snr(scheduler, t: Tensor) -> Tensor:
    """ᾱ_t / (1 − ᾱ_t), [B]."""
    alpha = scheduler.alphas_cumprod.to(t.device)[t]
    return alpha / (1 - alpha)
