"""What a step looked like: rewards, errors against the reference, lambda; overall, by timestep and by label source."""

from dataclasses import dataclass

import torch

from palate.distributed import gather

TIMESTEP_BINS = 4


@dataclass(frozen=True)
class PairReadings:
    """One row per pair of a step, all [B], detached."""

    logit: torch.Tensor
    target: torch.Tensor
    gain_0: torch.Tensor  # reference error - policy error of image 0
    gain_1: torch.Tensor
    loss: torch.Tensor
    scale: torch.Tensor  # the safeguard's lambda, 1 when off
    weight: torch.Tensor  # Adaptive-DPO's and its like, multiplied; 1 when off
    timestep: torch.Tensor
    labelled: torch.Tensor  # bool


def join(readings: list[PairReadings]) -> PairReadings:
    """The micro-batches of one optimiser step as one."""
    names = PairReadings.__dataclass_fields__
    return PairReadings(**{name: torch.cat([getattr(reading, name) for reading in readings]) for name in names})


def everywhere(readings: PairReadings, numbers: list[int]) -> PairReadings:
    """The readings of all processes, of which each has as many rows as `numbers` says, in one communication."""
    if len(numbers) == 1:
        return readings
    columns = [getattr(readings, name) for name in PairReadings.__dataclass_fields__]
    table = gather(torch.stack([column.cpu().double() for column in columns], dim=1), numbers)  # [B, columns]
    names = zip(PairReadings.__dataclass_fields__, columns, table.unbind(dim=1), strict=True)
    return PairReadings(**{name: own.to(column.dtype) for name, column, own in names})


def summarise(readings: PairReadings, beta: float, num_timesteps: int, judge: str | None) -> dict[str, float]:
    """The step's metrics. "Chosen" is the image that the target favours; pairs with a target of 1/2 have no chosen
    image.

    rewards/* are (beta/2)·(reference error - policy error), so that rewards/margins is the logit seen from the chosen
    image; winner_error and loser_error are policy minus reference, positive when the image got worse.
    """
    side = torch.sign(readings.target - 0.5)  # +1: image 0 is the chosen one
    chosen_gain = torch.where(side > 0, readings.gain_0, readings.gain_1)
    rejected_gain = torch.where(side > 0, readings.gain_1, readings.gain_0)
    margin = side * readings.logit
    columns = {
        "rewards/chosen": beta / 2 * chosen_gain,
        "rewards/rejected": beta / 2 * rejected_gain,
        "rewards/margins": margin,
        "rewards/accuracies": (torch.sign(margin) + 1) / 2,  # a logit of 0 counts as half right
        "winner_error": -chosen_gain,
        "loser_error": -rejected_gain,
        "loss_per_pair": readings.loss,
        "gradient_factor": (torch.sigmoid(readings.logit) - readings.target).abs(),
    }
    values = {name: column.cpu().double().numpy() for name, column in columns.items()}
    decided = (side != 0).cpu().numpy()
    labelled = readings.labelled.cpu().numpy()
    bins = (readings.timestep * TIMESTEP_BINS // num_timesteps).clamp(max=TIMESTEP_BINS - 1).cpu().numpy()
    groups = {"": decided, "by_source/human/": decided & labelled}
    if judge:
        groups[f"by_source/{judge}/"] = decided & ~labelled
    for b in range(TIMESTEP_BINS):
        edges = f"{b * num_timesteps // TIMESTEP_BINS}-{(b + 1) * num_timesteps // TIMESTEP_BINS - 1}"
        groups[f"by_timestep/{edges}/"] = decided & (bins == b)
    metrics = {
        prefix + name: float(column[rows].mean())
        for prefix, rows in groups.items()
        if rows.any()
        for name, column in values.items()
    }
    scale = readings.scale.cpu().double()
    metrics |= {"lambda/mean": scale.mean().item(), "lambda/share_active": (scale < 1).double().mean().item()}
    metrics["adaptive_weight/mean"] = readings.weight.cpu().double().mean().item()
    if labelled.any():
        metrics["largest_labelled_logit"] = readings.logit[readings.labelled].abs().max().item()
    return metrics
