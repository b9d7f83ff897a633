"""Trajectories of a diffusion: DDIM steps, the inversion of an image to its own noise, and the likelihood of one step.

Pure functions of the noise schedule. `alphas_cumprod` [T] is abar_t in fp32:
x_t = sqrt(abar_t)·x_0 + sqrt(1 - abar_t)·noise. Timestep -1 stands for the clean image, abar = 1. Latents, predictions
and noise are [B, C, h, w], timesteps [B] int64. Equations of DDIM as numbered in arXiv 2010.02502, where abar is alpha.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from palate.errors import PalateError
from palate.objectives.logit import full_precision


def x0_and_noise(
    prediction: Tensor, noisy: Tensor, timestep: Tensor, alphas_cumprod: Tensor, prediction_type: str
) -> tuple[Tensor, Tensor]:
    """What a prediction says about its noisy input: (clean latents, noise), both [B, C, h, w] in fp32.

    prediction_type: "epsilon" (the noise) or "v_prediction" (v = sqrt(abar)·noise - sqrt(1 - abar)·x_0, arXiv
    2202.00512). With "epsilon" there is no x_0 where abar_t is 0. Raises PalateError for another prediction_type.
    """
    prediction, noisy = full_precision(prediction), full_precision(noisy)
    signal, spread = signal_and_spread(timestep, alphas_cumprod)
    if prediction_type == "epsilon":
        return (noisy - spread * prediction) / signal, prediction
    _require_v(prediction_type)
    return signal * noisy - spread * prediction, signal * prediction + spread * noisy


def prediction_from(
    x0: Tensor, noise: Tensor, timestep: Tensor, alphas_cumprod: Tensor, prediction_type: str
) -> Tensor:
    """The prediction [B, C, h, w] that says x0 and noise: `x0_and_noise` undone. Raises PalateError likewise."""
    if prediction_type == "epsilon":
        return full_precision(noise)
    _require_v(prediction_type)
    signal, spread = signal_and_spread(timestep, alphas_cumprod)
    return signal * full_precision(noise) - spread * full_precision(x0)


def ddim_grid(num_timesteps: int | Tensor, steps: int) -> Tensor:
    """Timesteps of `steps` steps, ascending from the clean image: [steps + 1, ...], from -1 to num_timesteps - 1.

    Trailing spacing (arXiv 2305.08891, table 2): the grid holds the last timestep, so that sampling starts where the
    noise is pure, and an inversion ends where it should. The published codes of SPO, SmPO and InPO have leading
    spacing. `num_timesteps` may be a tensor [B]: a grid for each image. Where it is below `steps`, timesteps repeat
    (empty steps). Raises PalateError for less than one step.
    """
    if steps < 1:
        raise PalateError(f"{steps} steps: a trajectory takes at least 1.")
    last = torch.as_tensor(num_timesteps)
    count = torch.arange(steps + 1, device=last.device).view(-1, *[1] * last.dim())
    grid = ((last * count).double() / steps).round().long() - 1
    return torch.where(count > 0, grid.clamp(min=0), grid)


def ddim_step(
    noisy: Tensor, prediction: Tensor, timestep: Tensor, previous: Tensor, alphas_cumprod: Tensor, prediction_type: str
) -> Tensor:
    """The deterministic step from x_timestep to x_previous [B, C, h, w], eq. 12 with sigma = 0. previous may be -1."""
    x0, noise = x0_and_noise(prediction, noisy, timestep, alphas_cumprod, prediction_type)
    return _noised(x0, noise, previous, alphas_cumprod)


# --- the step as a distribution --------------------------------------------------------------------------------------


def step_distribution(
    noisy: Tensor, prediction: Tensor, timestep: Tensor, previous: Tensor, alphas_cumprod: Tensor, prediction_type: str,
    eta: float = 1.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The Gaussian of x_previous given x_timestep: (mean [B, C, h, w], standard deviation [B]); eq. 12 and 16.

    With s = previous < t = timestep: mean = sqrt(abar_s)·x_0 + sqrt(1 - abar_s - sigma²)·noise and
    sigma² = eta²·(1 - abar_s)/(1 - abar_t)·(1 - abar_t/abar_s). eta in [0, 1]: 0 is DDIM, 1 is ancestral sampling.
    The deviation is 0 where previous is -1. Raises PalateError for another eta.
    """
    signal, direction, std = _step(timestep, previous, alphas_cumprod, eta)
    x0, noise = x0_and_noise(prediction, noisy, timestep, alphas_cumprod, prediction_type)
    return signal * x0 + direction * noise, std.flatten()


def step_regression(
    noisy: Tensor, next_noisy: Tensor, timestep: Tensor, previous: Tensor, alphas_cumprod: Tensor, prediction_type: str,
    eta: float = 1.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The likelihood of a step as a denoising error: (regression target [B, C, h, w], error weight [B]). Derived.

    The mean of `step_distribution` is linear in the prediction, mean = offset + gain·prediction. So, per element,

        -log p(x_s | x_t) = error_weight · mean((prediction - regression_target)²) + const,
        regression_target = (x_s - offset)/gain,    error_weight = gain²/(2·sigma²),

    and log policy/reference = error_weight·(ref_error - error): the ordinary logit of two candidates for x_s, with
    their errors times error_weight, is that of SPO (2406.04314) and TailorPO (2502.01667). SPO averages the
    log-probability over elements likewise; its beta has no factor one half, so its 10 is beta = 20 here, and it clips
    the ratio. At eta = 1 and with "epsilon", error_weight = (SNR_s/SNR_t - 1)/2, SNR = abar/(1 - abar).

    Predictions must be those that were sampled from, with the same guidance. previous >= 0 and < timestep, or the
    weight is infinite. Raises PalateError unless eta is in (0, 1].
    """
    if eta == 0:
        raise PalateError("eta 0: a step without noise has no likelihood. Sample with eta in (0, 1].")
    offset, _ = step_distribution(
        noisy, torch.zeros_like(noisy), timestep, previous, alphas_cumprod, prediction_type, eta
    )
    gain, std = _gain(timestep, previous, alphas_cumprod, prediction_type, eta)
    return (full_precision(next_noisy) - offset) / gain, (gain / std).square().flatten() / 2


def _step(timestep: Tensor, previous: Tensor, alphas_cumprod: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Factors [B, 1, 1, 1] of a step: of x_0, of the noise in the direction of x_t, of the fresh noise."""
    if not 0 <= eta <= 1:
        raise PalateError(f"eta {eta}: give a number from 0 (no fresh noise) to 1 (ancestral sampling).")
    here, there = _level(timestep, alphas_cumprod), _level(previous, alphas_cumprod)
    fresh = eta**2 * (1 - _snr_ratio(here, there))  # share of the variance 1 - abar_s
    return there.sqrt(), ((1 - there) * (1 - fresh)).sqrt(), ((1 - there) * fresh).sqrt()


def _gain(
    timestep: Tensor, previous: Tensor, alphas_cumprod: Tensor, prediction_type: str, eta: float
) -> tuple[Tensor, Tensor]:
    """Derivative of a step's mean by the prediction, always negative, and the standard deviation, both [B, 1, 1, 1].

    For v it is direction·sqrt(abar_t) - sqrt(abar_s·(1 - abar_t)), for epsilon that over sqrt(abar_t). The two terms
    nearly cancel for small steps, so the difference is taken as that of their squares over their sum.
    """
    here, there = _level(timestep, alphas_cumprod), _level(previous, alphas_cumprod)
    signal, spread = here.sqrt(), (1 - here).sqrt()
    next_signal, direction, std = _step(timestep, previous, alphas_cumprod, eta)
    gain = -(there - here) * (1 + eta**2 * _snr_ratio(here, there)) / (next_signal * spread + signal * direction)
    return (gain / signal if prediction_type == "epsilon" else gain), std


def _snr_ratio(here: Tensor, there: Tensor) -> Tensor:
    """SNR here over SNR there, SNR = abar/(1 - abar); below 1 where here is noisier, exactly 1 where they are equal."""
    return here * (1 - there) / (there * (1 - here))


# --- inversion -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def invert(
    predict: Callable[[Tensor, Tensor], Tensor], latents: Tensor, timestep: Tensor, alphas_cumprod: Tensor,
    prediction_type: str, steps: int, renoise: bool = False, jitter: float = 0.0, noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The noise that a network itself would turn into these latents: (x_t, that noise), [B, C, h, w], no gradient.

    predict(noisy, timestep) is the current network, conditional and without guidance. Every image has its own grid of
    `steps` steps from the clean latents to its timestep [B]. x_t is sqrt(abar_t)·latents + sqrt(1 - abar_t)·noise to
    the last bit, so the noise takes the place of a drawn one.

    Plain, it is DDIM inversion as in InPO (2503.18454). `renoise`: each step takes the mean of the predictions at x and
    at the tentative next x (ReNoise, 2403.14602, as SmPO, 2506.02698, uses it), two forwards a step. `jitter` adds that
    share of the standard deviation of the reverse step at eta = 1, times `noise` [steps, B, C, h, w], after each step
    (InPO: 0.1). As in the published codes the network is told the timestep that a step goes to.

    Deviations: the published codes end on the last timestep of a common grid below t and call it t (a noise level too
    low, for the first image's t); here the grid ends at t. They take the clean image for one at timestep 0; here it is
    clean, as in training. Their jitter has the deviation of the next step, not of this one. A predicted v is converted
    at the timestep that the network was told, so that both prediction types give the same noise. Raises PalateError for
    less than one step, another prediction_type, or jitter without noise.
    """
    if jitter and noise is None:
        raise PalateError("an inversion with jitter needs noise of shape [steps, B, C, h, w].")
    clean = full_precision(latents)

    def noise_at(noisy: Tensor, told: Tensor) -> Tensor:
        return x0_and_noise(predict(noisy, told), noisy, told, alphas_cumprod, prediction_type)[1]

    # A DDIM step makes the noise of x, seen from the clean latents, a running mean of the predicted noises: with
    # k = sqrt((1 - abar)/abar), x_t/sqrt(abar_t) = x_s/sqrt(abar_s) + (k_t - k_s)·predicted.
    noisy, own = clean, torch.zeros_like(clean)
    grid = ddim_grid(timestep + 1, steps)  # [steps + 1, B]
    for step, (here, there) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        share = 1 - _snr_ratio(_level(there, alphas_cumprod), _level(here, alphas_cumprod)).sqrt()
        predicted = noise_at(noisy, there)
        if renoise:
            tentative = _noised(clean, own + share * (predicted - own), there, alphas_cumprod)
            predicted = (predicted + noise_at(tentative, there)) / 2
        own = own + share * (predicted - own)
        if jitter and noise is not None:
            _, _, std = _step(there, here, alphas_cumprod, eta=1.0)
            own = own + jitter * std / signal_and_spread(there, alphas_cumprod)[1] * full_precision(noise[step])
        noisy = _noised(clean, own, there, alphas_cumprod)
    return noisy, own


# --- the schedule ----------------------------------------------------------------------------------------------------


def _noised(x0: Tensor, noise: Tensor, timestep: Tensor, alphas_cumprod: Tensor) -> Tensor:
    signal, spread = signal_and_spread(timestep, alphas_cumprod)
    return signal * x0 + spread * noise


def signal_and_spread(timestep: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar_t) and sqrt(1 - abar_t), both [B, 1, 1, 1] in fp32, at timesteps [B]."""
    level = _level(timestep, alphas_cumprod)
    return level.sqrt(), (1 - level).sqrt()


def _level(timestep: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """abar [B, 1, 1, 1] at timesteps [B] from -1 (where it is 1) to T - 1."""
    levels = full_precision(alphas_cumprod).to(timestep.device)
    return torch.cat([levels.new_ones(1), levels])[timestep + 1].view(-1, 1, 1, 1)


def _require_v(prediction_type: str) -> None:
    if prediction_type != "v_prediction":
        raise PalateError(f"prediction_type {prediction_type!r}: palate knows 'epsilon' and 'v_prediction'.")
