"""The diffusion loss: latents are noised, the frozen U-Net predicts from the adapted features, and the error is weighted.

L_diffusion = w(t) · ‖ε − UNet(z_t, t, c')‖²        z_t = √ᾱ_t z + √(1 − ᾱ_t) ε
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sur_adapter.models.stable_diffusion import predict_noise, scale_latents
from sur_adapter.training import losses
from sur_adapter.training.config import LossConfig
from sur_adapter.training.distributed import DistributedContext


class DiffusionLoss:
    """Needs the frozen U-Net, its training scheduler (of diffusers), and the config of its VAE, which scales the latents.

    Raises ValueError for settings that the scheduler does not allow.
    """

    def __init__(self, config: LossConfig, unet: nn.Module, scheduler, vae_config: Mapping):
        self.config, self.unet, self.scheduler, self.vae_config = config, unet, scheduler, vae_config
        self.prediction_type = getattr(scheduler.config, "prediction_type", "epsilon")
        last = scheduler.config.num_train_timesteps
        self.t_max = last if config.t_max is None else config.t_max
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"this U-Net predicts {self.prediction_type!r}, and the diffusion loss supports only epsilon and v_prediction: "
                "set loss.w_diffusion to 0"
            )
        if not 0 <= config.t_min < self.t_max <= last:
            raise ValueError(
                f"params.yaml: loss.t_min is {config.t_min} and loss.t_max {config.t_max}: choose 0 <= t_min < t_max <= {last}, or null"
            )
        if self.prediction_type == "epsilon" and scheduler.alphas_cumprod[-1] < 1e-8:
            raise ValueError(
                "params.yaml: loss.rescale_betas_zero_snr needs a U-Net that predicts velocity; this one predicts noise: set it to false"
            )

    def __call__(
        self,
        moments: Tensor,
        adapted: dict[str, Tensor | None],
        reference: dict[str, Tensor | None],
        generator: torch.Generator | None,
        context: DistributedContext,
    ) -> Tensor:
        """Computes the loss of a batch.

        moments (B, 2, 4, h, w): mean and log-variance of the VAE's posterior. adapted, reference: conditions of the U-Net, from the adapted
        features and from the complex prompt: `prompt_embeds` (B, L, d), and for SDXL `pooled_prompt_embeds` (B, p), `time_ids` (B, 6).
        """
        mean, logvar = moments.unbind(1)
        latents = scale_latents(mean + (0.5 * logvar).exp() * context.randn_like(mean, generator), self.vae_config)  # (B, 4, h, w)
        noise = context.randn_like(latents, generator)
        if self.config.noise_offset:
            noise = noise + self.config.noise_offset * context.randn_like(latents[:, :, :1, :1], generator)
        timesteps = context.randint(self.config.t_min, self.t_max, latents, generator)  # (B,)
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)
        if self.config.target == "complex":
            with torch.no_grad():
                target = predict_noise(self.unet, noisy_latents, timesteps, **reference)
        elif self.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, timesteps)
        else:
            target = noise
        return losses.diffusion(target, predict_noise(self.unet, noisy_latents, timesteps, **adapted), self._weight(timesteps))

    def _weight(self, timesteps: Tensor) -> Tensor | None:
        """Returns w(t) (B,) of Min-SNR, or None if all timesteps weigh the same."""
        if not self.config.snr_gamma:
            return None
        alpha = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        return losses.min_snr(alpha / (1 - alpha), self.config.snr_gamma, self.prediction_type)  # SNR = ᾱ_t / (1 − ᾱ_t)
