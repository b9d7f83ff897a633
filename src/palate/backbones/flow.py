"""Flow matching: x_t = (1 - sigma)·x_0 + sigma·noise, whose velocity noise - x_0 the network predicts.

sigma = timestep/num_timesteps, from 0 (the image) to 1 (noise). arXiv 2210.02747; for images 2403.03206.
"""

import torch
from torch import Tensor

from palate.backbones.components import Config
from palate.backbones.transformer import Transformer
from palate.errors import PalateError

SCHEMES = ("logit_normal", "none")


def static_shift(scheduler: Config) -> float:
    """The factor by which a scheduler's configuration shifts sigmas toward noise, whatever the resolution; 1 for
    none."""
    if scheduler.get("use_dynamic_shifting"):  # shifted by resolution, while sampling only
        return 1.0
    return float(scheduler["shift"] if "shift" in scheduler else scheduler.get("flow_shift", 1.0))


def scheduler_settings(scheduler: Config) -> Config:
    """What diffusers' flow-match Euler and its DPM-Solver call otherwise, for turning one's configuration into the
    other's."""
    shift = static_shift(scheduler)
    return {"shift": shift, "flow_shift": shift, "use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def timestep_of_draw(
    drawn: Tensor, num_timesteps: int, scheme: str, logit_mean: float, logit_std: float, shift: float
) -> Tensor:
    """Timesteps [B] fp32 of draws, integers in [0, num_timesteps) [B]: the quantile at the middle of each one's share.

    "logit_normal": the logit of 1 - sigma is normal, before the shift; "none": sigma is uniform. The same distribution
    as in diffusers' training scripts, where a positive logit_mean means less noise. Then
    sigma becomes shift·sigma/(1 + (shift - 1)·sigma). Raises PalateError for another scheme, or no positive logit_std.
    """
    if scheme not in SCHEMES:
        raise PalateError(f"weighting_scheme {scheme!r} is not one of {', '.join(SCHEMES)}.")
    if not logit_std > 0:
        raise PalateError(f"logit_std: {logit_std} is not above 0.")
    sigma = (drawn.double() + 0.5) / num_timesteps
    if scheme == "logit_normal":
        sigma = torch.sigmoid(logit_std * torch.special.ndtri(sigma) - logit_mean)
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    return (sigma * num_timesteps).float()


def noised(latents: Tensor, noise: Tensor, timestep: Tensor, num_timesteps: int) -> Tensor:
    """x_t [B, C, h, w], fp32; latents, noise [B, C, h, w], timestep [B]."""
    sigma = (timestep.float() / num_timesteps).view(-1, 1, 1, 1)
    return (1 - sigma) * latents.float() + sigma * noise.float()


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """The regression target noise - x_0 [B, C, h, w], fp32."""
    return noise.float() - latents.float()


class FlowMatching(Transformer):
    """What families trained by flow matching share of `Backbone`."""

    is_flow = True

    @property
    def num_timesteps(self) -> int:
        return int(self.scheduler_config.get("num_train_timesteps", 1000))

    def timestep(self, drawn: Tensor) -> Tensor:
        shift = static_shift(self.scheduler_config)
        return timestep_of_draw(
            drawn, self.num_timesteps, self.weighting_scheme, self.logit_mean, self.logit_std, shift
        )

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return noised(latents, noise, timestep, self.num_timesteps)

    def regression_target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return velocity(latents, noise)
