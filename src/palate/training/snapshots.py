"""Adaptive-DPO's annotators: averages of the weights, and their opinion of every pair over the draws of a run."""

from pathlib import Path

import pyarrow as pa
import torch
from diffusers.training_utils import EMAModel

from palate.arrays import Objects
from palate.backbones.base import Denoiser
from palate.data.shards import write_table
from palate.network.averages import with_weights
from palate.network.model import Policy
from palate.network.sharding import like


class Snapshots:
    """Adaptive-DPO's annotators beside the current model: a slow and a fast moving average of the trained parameters.

    Decays 0.9999 and 0.5 with the warm-up min(decay, (1 + k)/(10 + k)), as in the published code.
    """

    def __init__(self, policy: Policy):
        self.names = policy.names
        self.averages = [EMAModel(policy.parameters, decay=decay, foreach=True) for decay in (0.9999, 0.5)]

    def update(self, parameters: list[torch.nn.Parameter]) -> None:
        for average in self.averages:
            average.step(parameters)

    def networks(self, network: torch.nn.Module) -> list[Denoiser]:
        """The network with each average in turn in place of its trained parameters, which are not changed."""
        averages = [dict(zip(self.names, average.shadow_params, strict=True)) for average in self.averages]
        return [with_weights(network, weights) for weights in averages]

    def state(self) -> dict[str, torch.Tensor]:
        shadows = {
            f"snapshots.{k}.{i}": tensor
            for k, average in enumerate(self.averages)
            for i, tensor in enumerate(average.shadow_params)
        }
        return shadows | {"snapshots.steps": torch.tensor([average.optimization_step for average in self.averages])}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        for k, average in enumerate(self.averages):
            average.optimization_step = int(state["snapshots.steps"][k])
            for i, shadow in enumerate(average.shadow_params):
                shadow.copy_(like(state[f"snapshots.{k}.{i}"], shadow))


class MinorityRecord:
    """Running means over draws of how much every row's vote looks like a minority's: doubt and spread, per row.

    doubt is 1 - mean confidence of the annotators, spread their disagreement; Adaptive-DPO's metric is their product.
    """

    def __init__(self, rows: int):
        self.draws = torch.zeros(rows, dtype=torch.int64)
        self.doubt = torch.zeros(rows)
        self.spread = torch.zeros(rows)

    def add(self, row: torch.Tensor, doubt: torch.Tensor, spread: torch.Tensor) -> None:
        """One draw of each of these rows, [B]; a row may occur more than once."""
        for index, one_doubt, one_spread in zip(row.tolist(), doubt.tolist(), spread.tolist(), strict=True):
            self.draws[index] += 1
            self.doubt[index] += (one_doubt - self.doubt[index]) / self.draws[index]
            self.spread[index] += (one_spread - self.spread[index]) / self.draws[index]

    def metric(self, row: torch.Tensor) -> torch.Tensor:
        """u [B] from the means so far."""
        return self.doubt[row] * self.spread[row]

    def state(self) -> dict[str, torch.Tensor]:
        return {"minority.draws": self.draws, "minority.doubt": self.doubt, "minority.spread": self.spread}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.draws, self.doubt, self.spread = (
            state[f"minority.{name}"].clone() for name in ("draws", "doubt", "spread")
        )

    def save(self, path: Path, row_id: Objects) -> None:
        """A table of the visited rows: pair_id, draws, doubt, spread, minority (doubt times spread)."""
        seen = (self.draws > 0).numpy()
        columns = {"pair_id": pa.array(row_id[seen].tolist(), pa.string()), "draws": self.draws[seen].numpy()}
        columns |= {"doubt": self.doubt[seen].numpy(), "spread": self.spread[seen].numpy()}
        write_table(path, pa.table(columns | {"minority": columns["doubt"] * columns["spread"]}))
