"""Which timesteps a flow-matching model is trained at, as the configuration says."""

import torch

from palate.backbones.base import Backbone
from palate.errors import PalateError
from palate.run.config import TrainConfig

KEYS = ("weighting_scheme", "logit_mean", "logit_std")


def choose_timesteps(backbone: Backbone, config: TrainConfig) -> None:
    """Have a flow-matching backbone turn draws into timesteps by the keys of `config`.

    Raises PalateError for values that cannot be, and for keys that were changed with a model that has timesteps of its
    own.
    """
    if backbone.is_flow:
        for key in KEYS:
            setattr(backbone, key, getattr(config, key))
        backbone.timestep(torch.zeros(1, dtype=torch.int64))  # refuses what cannot be
        return
    changed = [key for key in KEYS if getattr(config, key) != getattr(TrainConfig, key)]
    if changed:
        raise PalateError(
            f"{', '.join(changed)} choose the timesteps of flow matching, and {backbone.folder} is {backbone.family}, "
            "whose timesteps are all equally likely. Remove them."
        )


def timestep_settings(backbone: Backbone) -> tuple[str | float, ...]:
    """What errors at a draw depend on beside the draw and the network: nothing without flow matching."""
    return tuple(getattr(backbone, key) for key in KEYS) if backbone.is_flow else ()
