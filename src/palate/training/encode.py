"""What can be computed before any training: the cache of encoded pairs, and the reference's errors at addressed
draws."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from palate.backbones import Backbone, load_backbone
from palate.data.dataset import PreferenceDataset, open_dataset
from palate.encoding.cache import EncodedPairs, encode_pairs, planned_cache
from palate.errors import PalateError
from palate.network.model import let_go_of_encoders
from palate.network.precision import check_precision
from palate.network.timesteps import choose_timesteps
from palate.run.checks import check_family, needs_reference, other_draws
from palate.run.config import TrainConfig
from palate.run.load import base_model, load_config
from palate.training.precomputed import count_missing, precompute


def encode(
    config: str | Path | dict[str, Any] | TrainConfig, reference_draws: int | None = None, **overrides: Any
) -> dict[str, int]:
    """Encode the pairs of a configuration's dataset; with `reference_draws` also compute the errors of its reference at
    so many draws of each pair (its own `reference_draws` when absent). Further keywords replace single keys.

    Returns the numbers of encoded pairs, of draws, and of errors that were computed now. What is there is kept, and an
    interrupted encoding goes on. Raises PalateError when the configuration has no use for errors at the pairs' own
    draws.
    """
    config, dataset, backbone, accelerator = _opened(config, reference_draws, overrides)
    encoded = encode_pairs(dataset, backbone, config.resolution, place=config.cache)
    let_go_of_encoders(backbone)
    draws = config.reference_draws
    computed = precompute(encoded, backbone, config, accelerator) if draws is not None else 0
    return {"pairs": len(encoded), "draws": draws or 0, "computed": computed}


def plan(
    config: str | Path | dict[str, Any] | TrainConfig, reference_draws: int | None = None, **overrides: Any
) -> dict[str, int]:
    """What `encode` would find to do: pairs of the dataset, those to encode, draws, and errors to compute. Writes
    nothing."""
    config, dataset, backbone, _ = _opened(config, reference_draws, overrides)
    storage, _, _ = planned_cache(dataset, backbone, config.resolution, place=config.cache)
    encoded, draws = EncodedPairs(storage), config.reference_draws
    new = len(dataset) - len(encoded)
    missing = 0
    if draws is not None:
        missing = (count_missing(encoded, backbone, config) if len(encoded) else 0) + new * draws
    return {"pairs": len(dataset), "to encode": new, "draws": draws or 0, "to compute": missing}


def _opened(
    source: str | Path | dict[str, Any] | TrainConfig, reference_draws: int | None, overrides: dict[str, Any]
) -> tuple[TrainConfig, PreferenceDataset, Backbone, Accelerator]:
    draws: dict[str, Any] = {} if reference_draws is None else {"reference_draws": reference_draws}
    config = load_config(source, **draws, **overrides)
    if config.reference_draws is not None and not needs_reference(config):
        raise PalateError(
            "encode: nothing in this objective compares with a reference, so there are no errors to compute."
        )
    if config.reference_draws is not None and other_draws(config):
        raise PalateError(
            "encode: the reference's errors are computed at the draws of voted pairs, and this configuration has"
            f" {other_draws(config)}."
        )
    dataset = open_dataset(config.dataset)
    backbone = load_backbone(**base_model(config))
    check_family(config, backbone)
    choose_timesteps(backbone, config)
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    check_precision(config.mixed_precision, accelerator.device, backbone)
    backbone.device = accelerator.device
    return config, dataset, backbone, accelerator
