"""Pairs of next steps from the model's own sampling: two x_(t-1) from one shared x_t, ranked by a reward.

Step-aware preference optimisation (SPO, arXiv 2406.04314) and TailorPO (2502.01667). A pair's loss in training is
`palate.backbones.trajectories.step_regression`, with guided predictions of policy and reference at the shared x_t.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.special import expit
from torch import Tensor

from palate.addresses import address, normal
from palate.arithmetic import flushed_denormals
from palate.arrays import Floats, Pixels
from palate.backbones import Backbone
from palate.backbones.conditioning import Conditioning, expand, move, take
from palate.backbones.guidance import guided_prediction
from palate.backbones.trajectories import ddim_grid, step_distribution, x0_and_noise
from palate.errors import PalateError
from palate.files import atomic_path
from palate.judges.rewards import Reward, checked
from palate.objectives.logit import full_precision
from palate.progress import progress_bar

DECODED_AT_ONCE = 8  # pictures
_PairFields = tuple[Tensor, Tensor, Tensor, int, int, str, float, float]  # of one pair, `noisy` to `gap`


@dataclass(frozen=True)
class StepPairs:
    """M pairs of next steps, in the order of the prompts and, within a prompt, of the steps; on the CPU, fp32."""

    noisy: Tensor  # [M, C, h, w] the x_t that both candidates come from
    next_0: Tensor  # [M, C, h, w] x_previous, candidate 0
    next_1: Tensor  # [M, C, h, w]
    timestep: Tensor  # [M] int64
    previous: Tensor  # [M] int64, below timestep
    prompt: list[str]  # [M]
    probability: Tensor  # [M] target: probability that candidate 0 is better
    gap: Tensor  # [M] difference of the two softmax shares of the rewards, in (0, 1]
    guidance: float  # used in sampling the steps, and for predictions in training
    eta: float
    ranked: int  # steps that were ranked; these pairs are those with a sufficient gap

    def __len__(self) -> int:
        return len(self.prompt)

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file, atomically."""
        tensors = {f.name: getattr(self, f.name).contiguous() for f in fields(self) if f.type is Tensor}
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.type is not Tensor}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"step_pairs": json.dumps(rest)})

    @classmethod
    def load(cls, path: str | Path) -> "StepPairs":
        """Read what `save` wrote. Raises PalateError when the file is missing, damaged, or of another kind."""
        try:
            with safe_open(path, "pt") as file:
                rest = json.loads((file.metadata() or {})["step_pairs"])
                return cls(**{name: file.get_tensor(name) for name in file.keys()}, **rest)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise PalateError(f"{path}: no complete file of step pairs. Collect them again.") from error


@flushed_denormals()
@torch.no_grad()
def collect_step_pairs(
    backbone: Backbone,
    network: torch.nn.Module,
    prompts: list[str],
    seed_address: tuple[object, ...],
    reward: Reward,
    *,
    steps: int = 20,
    guidance: float = 5.0,
    eta: float = 1.0,
    first_step: int = 5,
    candidates: int = 4,
    threshold: float = 0.3,
    temperature: float = 1.0,
    soft: bool = False,
    batch_size: int = 8,
    resolution: int | None = None,
) -> StepPairs:
    """Sample every prompt with the current network; pair the best and the worst next step where they differ enough.

    From step `first_step` on (counted from 1), `candidates` x_previous are drawn from one x_t, and the reward sees the
    pictures of their predicted x_0: one forward for each candidate. The best and the worst become a pair where their
    shares, softmax(reward/temperature) of the two, differ by more than `threshold`; equal rewards never do. Which of
    the two is candidate 0 is random. The target is 1 or 0, or, with `soft`, sigmoid((reward_0 - reward_1)/temperature).
    The trajectory continues from a random candidate: the first, as all are drawn alike. The last step, to the clean
    image, has no noise and so no choice.

    SPO: the defaults, with a reward on the scale of logits. TailorPO: candidates=2, threshold=0. TailorPO-G, which also
    moves candidates along the reward's gradient, needs a reward with a gradient and is left out.

    Noise and places are addressed by (*seed_address, index of the prompt, step), so the same arguments give the same
    pairs to the last bit; give (seed, round), say. `batch_size` counts prompts and changes no more than rounding.
    `resolution` is in pixels, the model's own where it is None. The network is used as it is: its mode and its adapters
    are the caller's.

    As in the published code of SPO: steps are sampled with guidance, and the likelihood ratio in training is that of
    the guided predictions, of policy and reference. Deviations: the reward sees x_0 only and is not told the timestep
    (SPO trains a scorer that is); trailing instead of leading spacing, so sampling starts at T - 1; SPO's last step
    goes from timestep 1 to 0 and is ranked, though its noise can hardly be seen.

    Raises PalateError for settings that cannot work, a reward that is NaN or infinite, and when no step has a
    sufficient gap.
    """
    _check(backbone.num_timesteps, prompts, steps, eta, first_step, candidates, threshold, temperature)
    reward, resolution = checked("reward", reward), resolution or backbone.resolution
    found, ranked = [], 0
    with progress_bar("sampling steps", len(prompts) * (steps - 1)) as advance:
        for start in range(0, len(prompts), batch_size):
            index = range(start, min(start + batch_size, len(prompts)))
            texts, keys = [prompts[i] for i in index], [(*seed_address, i) for i in index]
            for branch in _branches(
                backbone, network, texts, keys, steps, guidance, eta, first_step, candidates, resolution
            ):
                if branch.step >= first_step:
                    repeated = [text for text in texts for _ in range(candidates)]
                    scores = reward(_decode(backbone, branch.x0.flatten(0, 1)), repeated).reshape(-1, candidates)
                    for row, key in enumerate(keys):
                        pair = _rank(branch, row, texts[row], key, scores[row] / temperature, threshold, soft)
                        found += [(index[row], pair)] if pair else []
                    ranked += len(texts)
                advance(len(texts))
    if not found:
        raise PalateError(
            f"none of {ranked} steps has candidates whose rewards differ enough (share by more than {threshold}). "
            "Lower the threshold or the temperature, or sample with more candidates."
        )
    found.sort(key=lambda entry: entry[0])  # stable: within a prompt the steps stay in order
    noisy, next_0, next_1, timestep, previous, prompt, probability, gap = zip(*(pair for _, pair in found), strict=True)
    return StepPairs(
        torch.stack(noisy), torch.stack(next_0), torch.stack(next_1), torch.tensor(timestep), torch.tensor(previous),
        list(prompt), torch.tensor(probability, dtype=torch.float32), torch.tensor(gap, dtype=torch.float32),
        float(guidance), float(eta), ranked,
    )  # fmt: skip


@dataclass(frozen=True)
class _Branch:
    """One step of B trajectories, with K candidates for where each goes (1 before the first step that is ranked)."""

    step: int  # counted from 1
    timestep: int
    previous: int
    noisy: Tensor  # [B, C, h, w]
    following: Tensor  # [B, K, C, h, w] x_previous
    x0: Tensor  # [B, K, C, h, w] the network's x_0 at each of them


def _branches(
    backbone: Backbone,
    network: torch.nn.Module,
    prompts: list[str],
    keys: list[tuple[object, ...]],
    steps: int,
    guidance: float,
    eta: float,
    first_step: int,
    candidates: int,
    resolution: int,
) -> Iterator[_Branch]:
    """Sample `prompts` up to the last step; `keys` address the noise. A candidate's forward also serves its next
    step."""
    device, prediction_type = backbone.device, backbone.noise_schedule.config.prediction_type
    alphas_cumprod = backbone.noise_schedule.alphas_cumprod.to(device)
    of_image = backbone.image_conditioning(resolution, resolution, resolution)
    of_image = move(of_image, device)
    conditioning = backbone.encode_prompts(prompts) | expand(of_image, len(prompts))
    unconditional = backbone.encode_prompts([""]) | of_image

    def raw(noisy: Tensor, timestep: Tensor, told: Conditioning) -> Tensor:
        return full_precision(backbone.predict(network, noisy, timestep, told))

    def predict(noisy: Tensor, timestep: int) -> Tensor:  # [B, K, C, h, w] to the same
        index = torch.arange(len(noisy), device=device).repeat_interleave(noisy.shape[1])
        flat, told = noisy.flatten(0, 1), torch.full((len(index),), timestep, device=device)
        return guided_prediction(raw, flat, told, take(conditioning, index), unconditional, guidance).view_as(noisy)

    shape = backbone.latent_shape(resolution)
    grid = ddim_grid(backbone.num_timesteps, steps).tolist()[::-1]  # descending
    noisy = torch.stack([normal(shape, "rollout", *key, "start") for key in keys]).to(device)
    prediction = predict(noisy[:, None], grid[0])[:, 0]
    for step, timestep, previous in zip(range(1, steps), grid[:-2], grid[1:-1], strict=True):
        here, there = (torch.tensor([time], device=device) for time in (timestep, previous))  # the same for all
        mean, std = step_distribution(noisy, prediction, here, there, alphas_cumprod, prediction_type, eta)
        several = candidates if step >= first_step else 1
        fresh = torch.stack([normal((several, *shape), "rollout", *key, step) for key in keys]).to(device)
        following = mean[:, None] + std * fresh
        predictions = predict(following, previous)
        x0, _ = x0_and_noise(predictions, following, there, alphas_cumprod, prediction_type)
        yield _Branch(step, timestep, previous, noisy, following, x0)
        noisy, prediction = following[:, 0], predictions[:, 0]  # drawn alike, so the first is a random one


def _rank(
    branch: _Branch, row: int, prompt: str, key: tuple[object, ...], scores: Floats, threshold: float, soft: bool
) -> _PairFields | None:
    """The pair's fields from noisy to gap, of trajectory `row` with scores [K]; None where the gap is too small."""
    best, worst = int(scores.argmax()), int(scores.argmin())
    gap = np.tanh((scores[best] - scores[worst]) / 2)  # softmax of two: sigmoid(d) - sigmoid(-d)
    if not gap > threshold:
        return None
    best_is_0 = address("candidate 0", *key, branch.step) % 2 == 0
    first, second = (best, worst) if best_is_0 else (worst, best)
    probability = expit(scores[first] - scores[second]) if soft else float(best_is_0)
    latents = (branch.noisy[row], branch.following[row, first], branch.following[row, second])
    noisy, next_0, next_1 = (tensor.cpu() for tensor in latents)
    return noisy, next_0, next_1, branch.timestep, branch.previous, prompt, probability, gap


def _decode(backbone: Backbone, latents: Tensor) -> Pixels:
    """Pictures uint8 [N, H, W, 3] of latents [N, C, h, w]."""
    parts = latents.split(DECODED_AT_ONCE)
    decoded = torch.cat([backbone.decode_latents(part) for part in parts])
    return ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _check(
    num_timesteps: int, prompts: list[str], steps: int, eta: float, first_step: int, candidates: int, threshold: float,
    temperature: float,
) -> None:  # fmt: skip
    for wrong, line in (
        (not prompts, "no prompts to sample."),
        (not 2 <= steps <= num_timesteps, f"steps {steps}: give a number from 2 to {num_timesteps}."),
        (not 0 < eta <= 1, f"eta {eta}: give a number in (0, 1]; without noise all candidates are the same."),
        (
            not 1 <= first_step < steps,
            f"first_step {first_step}: give a step from 1 to {steps - 1}; the last one is no choice.",
        ),
        (candidates < 2, f"candidates {candidates}: a pair takes at least 2."),
        (not 0 <= threshold < 1, f"threshold {threshold}: give a difference of shares in [0, 1)."),
        (not temperature > 0, f"temperature {temperature}: give a positive number, in units of the reward."),
    ):
        if wrong:
            raise PalateError(line)
