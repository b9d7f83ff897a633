"""The implicit reward of finished runs: how much better each denoises a picture than the model that it started from.

score_i = (beta/2) * mean over draws of (ref_error_i - error_i), so that score_0 - score_1 is the logit of the pair.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from palate.arrays import Floats
from palate.backbones import Backbone, load_backbone
from palate.backbones.conditioning import Conditioning, move
from palate.network.model import load_trained, starting_network
from palate.network.precision import compute_in
from palate.network.timesteps import choose_timesteps
from palate.objectives.logit import denoising_error
from palate.run.config import TrainConfig
from palate.run.load import base_model
from palate.training.draws import draws


@dataclass(frozen=True)
class ImplicitReward:
    """F networks that were trained from one reference."""

    backbone: Backbone
    trained: list[torch.nn.Module]
    reference: torch.nn.Module
    beta: float

    @torch.no_grad()
    def scores(
        self, pair_ids: list[str], latents: torch.Tensor, conditioning: Conditioning, count: int, seed: int
    ) -> Floats:
        """Scores [F, N, 2], in fp64, of pictures with latents [N, 2, C, h, w]; conditioning: 2N rows, images 0 first.

        Both pictures of a pair share its `count` draws, addressed by (seed, pair_id).
        """
        device = torch.device(self.backbone.device)
        images = latents.to(device).transpose(0, 1).flatten(0, 1)  # [2N, C, h, w]
        told = move(conditioning, device)
        total = torch.zeros(len(self.trained), len(images), dtype=torch.float64)
        for k in range(count):
            numbers = [f"judge {k}"] * len(pair_ids)
            drawn = draws(seed, pair_ids, numbers, tuple(images.shape[1:]), self.backbone.num_timesteps)
            noise = drawn.noise.repeat(2, 1, 1, 1).to(device)
            timestep = self.backbone.timestep(drawn.timestep).repeat(2).to(device)
            noisy = self.backbone.add_noise(images, noise, timestep)
            target = self.backbone.regression_target(images, noise, timestep)
            error, *errors = (
                denoising_error(self.backbone.predict(network, noisy, timestep, told), target)
                for network in (self.reference, *self.trained)
            )
            total += self.beta / 2 * (error - torch.stack(errors)).cpu().double()
        scores: Floats = (total / count).unflatten(1, (2, -1)).transpose(1, 2).numpy()
        return scores


def load_implicit_reward(runs: list[Path], config: TrainConfig, device: str, precision: str = "no") -> ImplicitReward:
    """The finished `runs`, all of them trained from the model that `config` starts from."""

    def frozen(network: torch.nn.Module) -> torch.nn.Module:
        network.eval().requires_grad_(False)
        compute_in(network, precision, device)  # still on the CPU, so that it takes half as much on the device
        return network.to(device)

    shared = load_backbone(**base_model(config))
    choose_timesteps(shared, config)
    trained = [frozen(load_trained(load_backbone(**base_model(config)), run / "model")) for run in runs]
    reference = frozen(starting_network(shared, config))
    shared.device = device
    return ImplicitReward(shared, trained, reference, config.beta)
