"""How much a pair counts beyond its target: the model's own votes, Adaptive-DPO, MADPO, AMaPO, uncertainty, ramps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from palate.arrays import Floats
from palate.distributed import counts, gather, part
from palate.labels.rows import Rows
from palate.labels.targets import debias, ramp, ramped
from palate.objectives.adaptive import (
    adaptive_margin,
    adaptive_weight,
    flipped_votes,
    label_side,
    metric_after_flips,
    minority_parts,
    relative_metric,
    winner_margin,
)
from palate.objectives.logit import logit
from palate.objectives.losses import Measured
from palate.objectives.pair_weights import amapo_margin, madpo_weight, uncertainty_margin, uncertainty_weight
from palate.objectives.timestep_weights import Spread, linear_weight
from palate.run.checks import SELF
from palate.run.config import TrainConfig
from palate.training.networks import Networks, Problem
from palate.training.rates import Rates, own_logit
from palate.training.snapshots import MinorityRecord, Snapshots

Redraw = Callable[[Problem, int], Problem]  # the same rows at another of their draws


@dataclass(frozen=True)
class Views:
    """Forward passes on a problem other than the policy's own in its step."""

    own: torch.Tensor | None  # [B] the model's own logit at other draws
    snapshots: list[torch.Tensor]  # errors [2, B] of each average of the weights


class PairWeights:
    """From a problem and the measurements on it: target, margin and weight of every row, [B] each."""

    def __init__(
        self,
        config: TrainConfig,
        rows: Rows,
        redraw: Redraw,
        snapshots: Snapshots | None,
        record: MinorityRecord | None,
        timesteps: int,
        spread: Spread | None,
        rates: Rates | None = None,
    ):
        self.config, self.rows, self.redraw, self.snapshots, self.record = config, rows, redraw, snapshots, record
        self.timesteps, self.spread, self.rates = timesteps, spread, rates
        self.power = rows.account.get("power", 1.0)

    @torch.no_grad()
    def look(self, problem: Problem, networks: Networks) -> Views:
        """All forward passes without a gradient that the weights need; they run before the one with a gradient, and
        share its memory."""
        config, own = self.config, None
        snapshots: list[torch.Tensor] = []
        if config.judge == SELF and config.self_judge == "online":
            own = torch.stack([networks.logits(self.redraw(problem, k)) for k in range(config.self_draws)]).mean(dim=0)
        if self.snapshots is not None:
            copies = self.snapshots.networks(networks.policy.network)
            snapshots = [networks.policy_errors(problem, copy)[0] for copy in copies]
        return Views(own, snapshots)

    def __call__(self, index: int, problem: Problem, measured: Measured, views: Views) -> tuple[torch.Tensor, ...]:
        """(target, margin to subtract from the logit, factor on the weight) of micro-batch `index`, without
        gradient."""
        config = self.config
        row = problem.row.numpy()
        told: Floats = problem.target.cpu().double().numpy()
        pseudo = self.rows.pseudo
        if views.own is not None:
            told, pseudo = self._own_votes(problem, views.own)
        elif pseudo is not None:
            pseudo = pseudo[row]
        if config.ramp:
            step = index // config.gradient_accumulation_steps
            assert pseudo is not None  # rows of pairs have it
            told = ramped(told, pseudo, ramp(step, config.max_train_steps))
        if self.rates is not None:
            own = own_logit(measured.link, measured.logit.detach())
            told = self.rates.targets(problem.row, own).numpy()
            self.rates.update(self._gather(problem.row).cpu(), self._gather(own))
        target = torch.tensor(told, dtype=torch.float32, device=problem.target.device)
        margin, weight = torch.zeros_like(target), torch.ones_like(target)
        if config.adaptive:
            adaptive, extra, turned = self._adaptive(index, problem, measured, target, views.snapshots)
            margin, weight = margin + extra, weight * adaptive
            target = torch.where(turned, 1 - target, target)
        side = label_side(target)
        if config.madpo is not None:
            weight = weight * madpo_weight(side * self._column(self.rows.judge_margin, problem), config.madpo)
        if config.amapo:
            lag = amapo_margin(self._gather(side * measured.logit.detach()))
            margin = margin + side * lag[part(config.train_batch_size)]
        if config.uncertainty is not None:
            uncertainty = self._column(self.rows.uncertainty, problem)
            if config.uncertainty_form == "weight":
                weight = weight * uncertainty_weight(uncertainty, config.uncertainty)
            else:
                margin = margin + side * uncertainty_margin(uncertainty, config.uncertainty)
        if config.confidence is not None:
            weight = weight * (1 + config.confidence * self._column(self.rows.confidence, problem))
        if config.timestep_weight != "none":
            weight = weight * self._of_timestep(problem, measured)
        return target, margin, weight

    def _of_timestep(self, problem: Problem, measured: Measured) -> torch.Tensor:
        """What the rows weigh by their timesteps, [B]; their own margins count from the next micro-batch on."""
        timestep = problem.timestep[: len(problem.target)]
        if self.spread is None:
            return linear_weight(timestep, self.timesteps)
        weight = self.spread.weight(timestep, self.timesteps)
        margin = measured.logit.detach() / (0.5 * measured.beta)
        self.spread.add(self._gather(timestep), self._gather(margin), self.timesteps)
        return weight

    def _own_votes(self, problem: Problem, logits: torch.Tensor) -> tuple[Floats, Floats]:
        """Targets [B] from the model's own votes [B]: its logit at other draws of the same pairs, averaged (DeDPO,
        arXiv 2602.06195)."""
        own = torch.sigmoid(logits).cpu().double().numpy()
        row = problem.row.numpy()
        assert self.rows.human is not None and self.rows.propensity is not None  # rows of pairs have both
        human = self.rows.human[row]
        if self.config.target == "dedpo":
            return debias(human, own, self.rows.propensity[row], self.power), own
        return (own if self.config.target == "judge" else np.where(np.isnan(human), own, human)), own

    def _adaptive(
        self, index: int, problem: Problem, measured: Measured, target: torch.Tensor, errors: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Adaptive-DPO's weight and margin of pairs with a human vote, and which of these votes are turned around; 1, 0
        and none of the others."""
        config, beta = self.config, self.config.beta
        reference = measured.ref_error
        logits = [measured.logit.detach()] + [logit(e[0], e[1], reference[0], reference[1], beta) for e in errors]
        side = label_side(target)
        margins = torch.stack([winner_margin(one, target, beta) for one in logits], dim=1)  # [B, 3]
        chosen = problem.labelled & (side != 0)
        margins, chosen, side, row = (
            self._gather(one) for one in (margins, chosen, side, problem.row)
        )  # over all processes
        margins, own = margins.T, part(config.train_batch_size)
        margin, weight, turned = torch.zeros_like(side), torch.ones_like(side), torch.zeros_like(chosen)
        if not chosen.any():
            return weight[own], margin[own], turned[own]
        metric = self._metric(index, margins[:, chosen], row[chosen.cpu()])
        flipped = flipped_votes(metric, config.adaptive_flip_ratio, config.adaptive_flip_threshold)
        metric = metric_after_flips(metric, flipped, config.adaptive_flip_metric, config.adaptive_flip_constant)
        turned[chosen] = flipped
        side, current = torch.where(turned, -side, side), torch.where(turned, -margins[0], margins[0])
        weight[chosen] = adaptive_weight(metric, config.adaptive_k1, config.adaptive_c, config.adaptive_weight)
        extra = adaptive_margin(current[chosen], metric, beta, config.adaptive_margin, config.adaptive_margin_form)
        # The released IPO form adds what the sigmoid form subtracts (objectives/adaptive.py).
        sign = -1.0 if config.link == "ipo" and config.adaptive_sign == "published" else 1.0
        margin[chosen] = sign * side[chosen] * extra
        return weight[own], margin[own], turned[own]

    def _metric(self, index: int, margins: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """How much each vote looks like a minority's, [B], from winner's margins [3, B] of these rows [B]."""
        config = self.config
        doubt, spread = minority_parts(margins, config.adaptive_rho, config.adaptive_normalise)
        assert self.record is not None  # as adaptive is on
        self.record.add(rows, doubt.cpu(), spread.cpu())
        if config.adaptive_memory:
            doubt, spread = (kept[rows].to(doubt.device) for kept in (self.record.doubt, self.record.spread))
        step = index // config.gradient_accumulation_steps
        if step % self._steps_of_a_pass() < config.adaptive_warmup_steps:
            return torch.zeros_like(doubt)
        if config.adaptive_divide == "no":
            return doubt * spread
        return relative_metric(doubt * spread, spread, "sum" if config.adaptive_divide == "sum" else "mean_spread")

    def _steps_of_a_pass(self) -> int:
        """Optimiser steps in which as many rows are visited as there are."""
        return -(-len(self.rows) // (self.config.train_batch_size * self.config.gradient_accumulation_steps))

    def _gather(self, own: torch.Tensor) -> torch.Tensor:
        """Rows [B, ...] of the whole micro-batch, from this process's rows `own`: some weights depend on all of
        them."""
        return gather(own, counts(self.config.train_batch_size))

    @staticmethod
    def _column(values: Floats | None, problem: Problem) -> torch.Tensor:
        assert values is not None  # the rows have what the configuration needs
        return torch.tensor(values[problem.row.numpy()], dtype=torch.float32, device=problem.target.device)
