"""A reference that moves: a copy of the trained weights that follows the policy, by an average or in rounds.

With adapters these are a second pair of factors for each module, not a second network; with full training a second copy
of the weights. The network is the policy's own, with these weights in place.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from palate.backbones.base import Denoiser
from palate.network.averages import with_weights
from palate.network.model import Policy
from palate.network.sharding import like
from palate.run.config import TrainConfig


def decay_at(step: int, config: TrainConfig) -> float:
    """The decay of the average after optimiser step `step`, 1 for the first.

    Constant (Linear-DPO, released code); ratio: min(decay, (1 + k)/(10 + k)), an option of the same code; linear: 0 up
    to step reference_wait, then min(decay, rise*(step - wait)) (DiffusionNFT, released code).
    """
    largest = config.reference_decay
    if config.reference_warmup == "ratio":
        return min(largest, (1 + step) / (10 + step))
    if config.reference_warmup == "linear":
        return min(largest, config.reference_rise * max(0, step - config.reference_wait))
    return largest


class MovingReference:
    """Weights that start where the policy does, and follow it after optimiser steps.

    ema: reference = d*reference + (1 - d)*policy, every `reference_steps` steps (1 when absent). round: a copy of the
    policy every `reference_steps` steps; when absent, whenever held-out votes say that the policy is better.
    """

    def __init__(self, policy: Policy, config: TrainConfig):
        self.config, self.policy = config, policy
        self.weights = {name: p.detach().clone() for name, p in policy.state().items()}
        self.steps = self.moves = 0
        self._losses: Tensor | None = None  # [N] of held-out votes, when the reference last moved

    def update(self, parameters: list[torch.nn.Parameter]) -> None:
        """Once after every optimiser step."""
        config = self.config
        self.steps += 1
        by_votes = config.reference == "round" and config.reference_steps is None
        if by_votes or self.steps % (config.reference_steps or 1):
            return
        self._move(parameters, decay_at(self.steps, config) if config.reference == "ema" else 0.0)

    def hear(self, losses: Tensor) -> None:
        """The losses [N] of the same held-out votes at every validation, measured against the start. Where they decide,
        the reference becomes the policy once their mean has fallen since its last move (at the start: since log 2) by
        more than the standard error of that difference, taken vote by vote."""
        if self.config.reference != "round" or self.config.reference_steps is not None:
            return
        fallen = (math.log(2) if self._losses is None else self._losses) - losses
        if fallen.mean() > fallen.std() / len(fallen) ** 0.5:  # NaN with one vote: it never moves
            self._move(self.policy.parameters, 0.0)
            self._losses = losses.clone()

    def _move(self, parameters: list[torch.nn.Parameter], decay: float) -> None:
        own = [parameter.detach() for parameter in parameters]
        if decay == 0:  # to the last bit, which an average with 0 need not reach
            for weight, parameter in zip(self.weights.values(), own, strict=True):
                weight.copy_(parameter)
        else:
            get_ema_multi_avg_fn(decay)(list(self.weights.values()), own, 0)
        self.moves += 1

    @contextmanager
    def network(self) -> Iterator[Denoiser]:
        """Lends the reference network for a block."""
        yield with_weights(self.policy.network, self.weights)

    def state(self) -> dict[str, Tensor]:
        kept = {f"reference.{name}": tensor for name, tensor in self.weights.items()}
        if self._losses is not None:
            kept["reference_losses"] = self._losses
        return kept | {"reference_moves": torch.tensor([self.steps, self.moves])}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.steps, self.moves = state["reference_moves"].tolist()
        self._losses = state.get("reference_losses")
        for name, weight in self.weights.items():
            weight.copy_(like(state[f"reference.{name}"], weight))
