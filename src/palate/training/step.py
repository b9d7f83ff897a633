"""One micro-batch: the networks' outputs on a Problem, the losses of a configuration, their gradient."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch

from palate import distributed
from palate.network.sharding import is_sharded
from palate.objectives.links import make_link
from palate.objectives.links_giving_up import alpha_dpo, moving_alpha
from palate.objectives.logit import full_precision, logit
from palate.objectives.losses import LOSSES, NEEDS_SHIFT, NEEDS_START, Measured, given
from palate.objectives.safeguard import (
    combined_gradient,
    exact_scale,
    loser_scale,
    protected_errors,
    pulls_image_0,
)
from palate.objectives.worst_case import worst_case
from palate.run.checks import uses_reference
from palate.run.config import TrainConfig
from palate.training.networks import Networks, Problem, by_image
from palate.training.pair_weights import PairWeights
from palate.training.precomputed import ReferenceErrors
from palate.training.readings import PairReadings
from palate.training.spikes import Spike

Source = Callable[[int], Problem]


class Stepper:
    """Accumulates the gradient of one micro-batch at a time, and finishes the gradient of a step."""

    def __init__(
        self,
        config: TrainConfig,
        networks: Networks,
        source: Source,
        pair_weights: PairWeights,
        shared: ReferenceErrors | None = None,
    ):
        self.config, self.networks, self.source = config, networks, source
        self.pair_weights, self.shared = pair_weights, shared
        moving = config.link == "alpha-dpo" and config.link_parameter is None
        self.link = self._moving_link if moving else make_link(config.link, config.link_parameter)
        if config.target_radius > 0:
            self.link = worst_case(self.link, config.target_radius)
        self._exact = config.safeguard is not None and config.safeguard_mode == "exact"
        self._damped = config.safeguard is not None and not self._exact
        self._pull: list[torch.Tensor] = []  # exact safeguard: the part of the gradient that pulls preferred images
        self._loss = 0.0
        self._rows: list[tuple[list[str], torch.Tensor]] = []  # of this step, with the size of each row's pull
        self._refused: list[str] = []  # pairs without a finite loss, to tell the other processes

    def accumulate(self, index: int) -> PairReadings:
        """Forward and backward of micro-batch `index`. Raises PalateError, naming the pairs, when the loss is NaN or
        infinite."""
        problem, self._step = self.source(index), index // self.config.gradient_accumulation_steps
        if index % self.config.gradient_accumulation_steps == 0:
            self._rows = []
        views = self.pair_weights.look(problem, self.networks)
        measured = self._measure(problem)
        target, margin, pair_weight = self.pair_weights(index, problem, measured, views)
        measured = replace(measured, target=target, margin=margin)
        scale = torch.ones_like(target)
        if self._damped:
            measured, scale = self._damp(measured)
        weight = problem.weight * pair_weight
        loss_per_row = self._loss_per_row(measured)
        loss = self._mean(weight * loss_per_row)
        size = measured.error.detach().abs().sum(dim=0).sqrt()  # a gradient grows with the root of the error
        self._rows.append((problem.row_id, (weight * loss_per_row).detach().abs() * size))
        if not torch.isfinite(loss):
            self._doubt(problem, loss_per_row)
        if self._exact:
            pulling = self._protect(measured, self._pulled(measured), torch.zeros_like(scale))
            self._accumulate_pull(self._mean(weight * self._loss_per_row(pulling)))
        self._backward(loss)
        self._loss += loss.item() / self.config.gradient_accumulation_steps
        return _readings(problem, measured, loss_per_row, scale, pair_weight)

    def finish(self) -> dict[str, float]:
        """Finish a step's gradient after its micro-batches: sum it over the processes. With the exact safeguard returns
        its figures. Raises PalateError, naming the pairs, when a process met a loss that is NaN or infinite."""
        self._loss = distributed.total(self._loss)
        if not math.isfinite(self._loss):
            self._refuse(distributed.everybody_says(self._refused))
        parameters = self.networks.policy.parameters
        if not is_sharded(self.networks.policy.network):  # a sharded network sums by itself
            distributed.sum_gradients(self._pull + [p.grad for p in parameters if p.grad is not None])
        if not self._exact:
            return {}
        reached = [parameter.grad is not None for parameter in parameters]  # a last block may have unused parameters
        whole = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        assert self.config.safeguard is not None  # as the exact safeguard is on
        lam, would_rise = exact_scale(self._pull, whole, self.config.safeguard)
        for place, gradient in enumerate(combined_gradient(self._pull, whole, lam)):
            parameters[place].grad = gradient if reached[place] else None
        self._pull = []
        return {"lambda/exact": lam, "lambda/would_rise": float(would_rise)}

    def worst_pairs(self, count: int = 5) -> list[str]:
        """The pairs of this step, over all processes, that most likely made its gradient large, by their loss and the
        size of their errors."""
        pulls = [pair for ids, pull in self._rows for pair in zip(pull.tolist(), ids, strict=True)]
        return distributed.everybody_says([row_id for _, row_id in sorted(pulls, reverse=True)[:count]])

    def take_loss(self) -> float:
        """The loss accumulated since this was last asked."""
        loss, self._loss = self._loss, 0.0
        return loss

    def _measure(self, problem: Problem) -> Measured:
        """Policy and reference on the problem; the target still the rows' own, no margin, no safeguard."""
        config, networks = self.config, self.networks
        known, reference_prediction, start_prediction, shift, moved = None, None, None, None, None
        if uses_reference(config):
            known, reference_prediction = self._reference(problem)
            start_prediction = reference_prediction
            if networks.moves and set(config.losses) & NEEDS_START:
                start_prediction = networks.start_prediction(problem)
        error, prediction = networks.policy_errors(problem)
        reference = torch.zeros_like(error) if known is None else known
        if set(config.losses) & NEEDS_SHIFT and prediction is not None and reference_prediction is not None:
            shift = by_image(prediction - reference_prediction, problem)
            moved = shift if start_prediction is None else by_image(prediction - start_prediction, problem)
        if config.ratio_clip is not None:  # the log ratio of a step is its gain
            low, high = torch.log(torch.tensor([1 - config.ratio_clip, 1 + config.ratio_clip])).tolist()
            error = reference - (reference - error).clamp(low, high)
        residual = None
        if prediction is not None:
            residual = by_image(prediction - full_precision(problem.regression_target), problem)
            if problem.region is not None:
                residual = residual * by_image(problem.region, problem)
        x0_scale = None if problem.x0_scale is None else by_image(problem.x0_scale, problem)
        return Measured(
            error=error,
            ref_error=reference,
            plain_error=error,
            logit=_logit(error, reference, config.beta),
            margin=torch.zeros_like(problem.target),
            target=problem.target,
            beta=config.beta,
            residual=residual,
            shift=shift,
            moved=moved,
            x0_scale=x0_scale,
            rank=problem.rank,
            present=problem.present,
            link=self.link,
            gather=self._gather,
            mapo_beta=config.mapo_beta,
            dspo_beta=config.dspo_beta,
            kto_utility=config.kto_utility,
            kto_offset=config.kto_offset,
            kto_liked=config.kto_liked,
            kto_disliked=config.kto_disliked,
            nft_beta=config.nft_beta,
            nft_kl=config.nft_kl,
        )

    def _reference(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor | None]:
        numbers = [int(number) for number in problem.number] if self.shared else []  # draws that the loss takes
        known = self.shared.lookup(problem.row_id, numbers) if self.shared else None
        unknown = known is None
        if self.shared and is_sharded(self.networks.policy.network):  # runs in all processes, or none
            unknown = bool(distributed.largest(unknown))
        if known is not None and not unknown:
            return known.to(problem.noisy.device).T, None
        errors, prediction = self.networks.reference_errors(problem)
        if self.shared:
            self.shared.add(problem.row_id, numbers, errors.T)
        return errors, prediction

    def _pulled(self, measured: Measured) -> torch.Tensor:
        """Whether the step lowers the error of image 0, [B] bool."""
        if "preference" in self.config.losses:
            return pulls_image_0(measured.logit - measured.margin, measured.target, self.link)
        return measured.target > 0.5

    def _damp(self, measured: Measured) -> tuple[Measured, torch.Tensor]:
        """The safeguard from the predictions: the same values with damped gradients, and lambda [B]."""
        pulled_0 = self._pulled(measured)
        residual_0, residual_1 = given(measured.residual).detach().unbind(0)
        mu, mode = self.config.safeguard, self.config.safeguard_mode
        assert mu is not None and mode != "exact"
        if mode == "pair":
            lam = loser_scale(residual_0, residual_1, pulled_0, mu)
        else:  # one factor for the whole batch, even if it is spread over processes
            rows = [self._gather(one) for one in (residual_0, residual_1, pulled_0)]
            lam = loser_scale(rows[0], rows[1], rows[2], mu, mode)[: len(pulled_0)]
        return self._protect(measured, pulled_0, lam), lam

    def _protect(self, measured: Measured, pulled_0: torch.Tensor, lam: torch.Tensor) -> Measured:
        """The same values, the gradient of the image that is not pulled multiplied by lam [B]."""
        error = torch.stack(protected_errors(measured.error[0], measured.error[1], pulled_0, lam))
        return replace(measured, error=error, logit=_logit(error, measured.ref_error, measured.beta))

    def _gather(self, own: torch.Tensor) -> torch.Tensor:
        """Rows [B, ...] of the whole micro-batch, from this process's rows `own`."""
        return distributed.gather(own, distributed.counts(self.config.train_batch_size))

    def _mean(self, values: torch.Tensor) -> torch.Tensor:
        return distributed.mean_part(values, self.config.train_batch_size)

    def _moving_link(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """alpha-DPO with the alpha of the whole batch."""
        alpha = moving_alpha(self._gather(z.detach()), self._gather(target), self.config.alpha_factor)
        return alpha_dpo(z, target, float(alpha))

    def _loss_per_row(self, measured: Measured) -> torch.Tensor:
        parts = [weight * LOSSES[name](measured) for name, weight in self.config.losses.items()]
        return cast(torch.Tensor, sum(parts))  # there is a loss at least

    def _backward(self, loss: torch.Tensor, retain_graph: bool = False) -> None:
        self.networks.accelerator.backward(loss / self.config.gradient_accumulation_steps, retain_graph=retain_graph)

    def _accumulate_pull(self, loss: torch.Tensor) -> None:
        """The gradient of the pulling part, kept apart; the earlier content of .grad is unchanged."""
        parameters = self.networks.policy.parameters
        before = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        self._backward(loss, retain_graph=True)
        now = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        self._pull = [a + b for a, b in zip(self._pull, now, strict=True)] if self._pull else now
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient

    def _doubt(self, problem: Problem, loss_per_row: torch.Tensor) -> None:
        """Raise at once; with several processes, all raise together at the end of the step."""
        finite = torch.isfinite(loss_per_row).tolist()
        self._refused += [row_id for row_id, fine in zip(problem.row_id, finite, strict=True) if not fine]
        if distributed.processes() == 1:
            self._refuse(self._refused)

    def _refuse(self, bad: list[str]) -> None:
        raise Spike(self._step, "the loss is NaN or infinite", list(dict.fromkeys(bad)))


def _logit(error: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """[B] of pairs, [K = 2, B] errors each; zero for rows that are not pairs."""
    if len(error) != 2:
        return torch.zeros_like(error[0])
    return logit(error[0], error[1], reference[0], reference[1], beta)


def _readings(
    problem: Problem, measured: Measured, loss_per_row: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor
) -> PairReadings:
    """The inputs of the metrics. A single image counts as a pair whose other image is empty, a list as its best and
    worst image."""
    gains = (measured.ref_error - measured.error).detach()  # [K, B]
    value = measured.logit.detach()
    if problem.images == 1:
        gains = torch.cat([gains, torch.zeros_like(gains)])
    elif problem.rank is not None:
        present = given(problem.present)
        worst = torch.where(present, problem.rank, -1).argmax(dim=1)
        best = torch.where(present, problem.rank, torch.inf).argmin(dim=1)
        gains = torch.stack([gains.T.gather(1, column[:, None])[:, 0] for column in (best, worst)])
    if problem.images != 2 or problem.rank is not None:
        value = 0.5 * measured.beta * (gains[0] - gains[1])
    return PairReadings(
        logit=value,
        target=measured.target.detach(),
        gain_0=gains[0],
        gain_1=gains[1],
        loss=loss_per_row.detach(),
        scale=scale,
        weight=weight,
        timestep=problem.timestep[: len(problem.target)],
        labelled=problem.labelled,
    )
