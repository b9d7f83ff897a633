"""What a pair is worth beyond its target: the model's own votes, Adaptive-DPO, MADPO, AMaPO, uncertainty, ramps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from palate.arrays import Floats
from palate.distributed import counts, gather, part
from palate.labels.rows import Rows
from palate.labels.targets import debias, ramp, ramped
from palate.objectives.adaptive import adaptive_margin, adaptive_weight, label_side, minority_parts, winner_margin
from palate.objectives.logit import logit
from palate.objectives.losses import Measured
from palate.objectives.pair_weights import amapo_margin, madpo_weight, uncertainty_margin, uncertainty_weight
from palate.run.checks import SELF
from palate.run.config import TrainConfig
from palate.training.networks import Networks, Problem
from palate.training.snapshots import MinorityRecord, Snapshots

Redraw = Callable[[Problem, int], Problem]  # the same rows at another of their draws


@dataclass(frozen=True)
class Views:
    """What other networks than the policy in its step say of a problem."""

    own: torch.Tensor | None  # [B] the model's own logit at other draws
    snapshots: list[torch.Tensor]  # errors [2, B] of each average of the weights


class PairWeights:
    """From a problem and what was measured on it: target, margin and weight of every row, [B] each."""

    def __init__(
        self,
        config: TrainConfig,
        rows: Rows,
        redraw: Redraw,
        snapshots: Snapshots | None,
        record: MinorityRecord | None,
    ):
        self.config, self.rows, self.redraw, self.snapshots, self.record = config, rows, redraw, snapshots, record
        self.power = rows.account.get("power", 1.0)

    @torch.no_grad()
    def look(self, problem: Problem, networks: Networks) -> Views:
        """Every forward pass without a gradient that the weights need; before the one with it, whose memory they
        reuse."""
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
        target = torch.tensor(told, dtype=torch.float32, device=problem.target.device)
        margin, weight = torch.zeros_like(target), torch.ones_like(target)
        side = label_side(target)
        if config.adaptive:
            adaptive, extra = self._adaptive(problem, measured, target, views.snapshots)
            margin, weight = margin + extra, weight * adaptive
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
        return target, margin, weight

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
        self, problem: Problem, measured: Measured, target: torch.Tensor, errors: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adaptive-DPO's weight and margin of pairs with a human vote; 1 and 0 of the others."""
        config, beta = self.config, self.config.beta
        reference = measured.ref_error
        logits = [measured.logit.detach()] + [logit(e[0], e[1], reference[0], reference[1], beta) for e in errors]
        side = label_side(target)
        margins = torch.stack([winner_margin(one, target, beta) for one in logits], dim=1)  # [B, 3]
        chosen = problem.labelled & (side != 0)
        margins, chosen, side, row = (
            self._gather(one) for one in (margins, chosen, side, problem.row)
        )  # of all processes
        margins, own = margins.T, part(config.train_batch_size)
        margin, weight = torch.zeros_like(side), torch.ones_like(side)
        if not chosen.any():
            return weight[own], margin[own]
        doubt, spread = minority_parts(margins[:, chosen])
        rows = row[chosen.cpu()]
        assert self.record is not None  # as adaptive is on
        self.record.add(rows, doubt.cpu(), spread.cpu())
        metric = self.record.metric(rows).to(doubt.device) if config.adaptive_memory else doubt * spread
        weight[chosen] = adaptive_weight(metric)
        extra = adaptive_margin(margins[0, chosen], metric, beta, config.adaptive_margin)
        # The released IPO form adds what the sigmoid form subtracts (objectives/adaptive.py).
        sign = -1.0 if config.link == "ipo" and config.adaptive_sign == "published" else 1.0
        margin[chosen] = sign * side[chosen] * extra
        return weight[own], margin[own]

    def _gather(self, own: torch.Tensor) -> torch.Tensor:
        """Rows [B, ...] of the whole micro-batch, of which `own` are this process's: some weights depend on all of
        them."""
        return gather(own, counts(self.config.train_batch_size))

    @staticmethod
    def _column(values: Floats | None, problem: Problem) -> torch.Tensor:
        assert values is not None  # the rows have what the configuration asks for
        return torch.tensor(values[problem.row.numpy()], dtype=torch.float32, device=problem.target.device)
