"""The moving average of the trained weights, which becomes the model."""

import torch
from diffusers.training_utils import EMAModel

from palate.network.model import Policy
from palate.network.sharding import like


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
