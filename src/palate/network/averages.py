"""The moving average of the trained weights, which becomes the model; a network with other weights in its place."""

from functools import partial
from typing import Any

import torch
from diffusers.training_utils import EMAModel

from palate.backbones.base import Denoiser
from palate.network.model import Policy
from palate.network.sharding import is_sharded, like


def with_weights(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> Denoiser:
    """The network with these weights, by the names of its parameters, in place of its own, which are not changed. It
    reads `weights` at every call, so that it follows them."""
    return partial(_with_shards if is_sharded(network) else _with_weights, network, weights)


def _with_weights(network: torch.nn.Module, weights: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
    return torch.func.functional_call(network, weights, args, kwargs)


@torch.no_grad()
def _with_shards(network: torch.nn.Module, weights: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
    """A sharded network gathers the values of its own parameters, so these hold the other weights inside the block."""
    parameters = dict(network.named_parameters())
    kept = {name: parameters[name].detach().clone() for name in weights}
    try:
        for name, weight in weights.items():
            parameters[name].copy_(weight)
        return network(*args, **kwargs)
    finally:
        for name, weight in kept.items():
            parameters[name].copy_(weight)


class Average:
    """An exponential moving average of the trained parameters, with the warm-up min(decay, (1 + k)/(10 + k))."""

    def __init__(self, policy: Policy, decay: float):
        self.names = policy.names
        self._average = EMAModel(policy.parameters, decay=decay, foreach=True)

    def update(self, parameters: list[torch.nn.Parameter]) -> None:
        """Once after every optimiser step."""
        self._average.step(parameters)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The averaged weights, by the policy's names."""
        return dict(zip(self.names, self._average.shadow_params, strict=True))

    def state(self) -> dict[str, torch.Tensor]:
        shadows = {f"average.{name}": tensor for name, tensor in self.weights.items()}
        return shadows | {"average.steps": torch.tensor(self._average.optimization_step)}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self._average.optimization_step = int(state["average.steps"])
        for name, shadow in self.weights.items():
            shadow.copy_(like(state[f"average.{name}"], shadow))
