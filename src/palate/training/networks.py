"""Policy and reference on the noised images of a step: predictions, denoising errors, logits, always in fp32."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator

from palate.backbones import Backbone
from palate.backbones.base import Denoiser
from palate.backbones.conditioning import Conditioning, take
from palate.backbones.guidance import guided_prediction
from palate.network.model import Policy
from palate.objectives.logit import denoising_error, logit
from palate.objectives.regions import region_error
from palate.training.draws import Number

Reference = Callable[[], AbstractContextManager[Denoiser]]  # lends the reference network for a block


@dataclass(frozen=True)
class Problem:
    """The task of a micro-batch: K noised images for each of B rows, and the regression target of each prediction.

    Images are in the order images 0 of all rows, then images 1, and so on: M = K*B of them.
    """

    row: torch.Tensor  # [B] int64, index into the rows of the run
    row_id: list[str]
    number: Sequence[Number]  # of the draw
    noisy: torch.Tensor  # [M, C, h, w]
    timestep: torch.Tensor  # [M]
    conditioning: Conditioning  # M rows
    regression_target: torch.Tensor  # [M, C, h, w]
    target: torch.Tensor  # [B]
    weight: torch.Tensor  # [B]
    labelled: torch.Tensor  # [B] bool
    images: int = 2  # K
    one_input: bool = False  # all images of a row have the same noisy latents: one prediction serves them
    unconditional: Conditioning | None = None  # 1 row: the empty prompt, where predictions are guided
    guidance: float = 1.0
    error_weight: torch.Tensor | None = None  # [M] factor on the error: the precision of a sampling step
    region: torch.Tensor | None = None  # [M, 1, h, w] bool: where errors count
    x0_scale: torch.Tensor | None = None  # [M] the residual times this is the residual of x_0
    rank: torch.Tensor | None = None  # [B, K]
    present: torch.Tensor | None = None  # [B, K] bool


class Networks:
    """The policy, its reference and the model that the run started from, under one autocast. The last two are one
    unless the reference moves. A classifier's error is defined so that the logit of a pair is the difference of its two
    outputs."""

    def __init__(
        self,
        backbone: Backbone,
        policy: Policy,
        reference: Reference,
        beta: float,
        accelerator: Accelerator,
        start: Reference | None = None,
    ):
        self.backbone, self.policy, self.reference = backbone, policy, reference
        self.beta, self.accelerator = beta, accelerator
        self.moves, self.start = start is not None, start or reference

    def predict(self, network: Denoiser, problem: Problem) -> torch.Tensor:
        """Predictions [M, C, h, w], fp32."""
        rows = len(problem.row) if problem.one_input else len(problem.noisy)
        noisy, timestep = problem.noisy[:rows], problem.timestep[:rows]
        conditioning = take(problem.conditioning, slice(rows))
        prediction = guided_prediction(
            partial(self.raw_predict, network),
            noisy,
            timestep,
            conditioning,
            problem.unconditional or {},
            problem.guidance,
        )
        return prediction.repeat(len(problem.noisy) // rows, 1, 1, 1) if problem.one_input else prediction

    def raw_predict(
        self, network: Denoiser, noisy: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """One forward pass on [M] images, its output in fp32 before any difference is taken."""
        with self.accelerator.autocast():
            return self.backbone.predict(network, noisy, timestep, conditioning).float()

    def errors(self, problem: Problem, prediction: torch.Tensor) -> torch.Tensor:
        """Denoising errors [K, B] of predictions [M, C, h, w]."""
        if problem.region is not None:
            error = region_error(prediction, problem.regression_target, problem.region)
        else:
            error = denoising_error(prediction, problem.regression_target)
        if problem.error_weight is not None:
            error = problem.error_weight * error
        return by_image(error, problem)

    def policy_errors(
        self, problem: Problem, network: Denoiser | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The policy's errors [K, B], and its predictions [M, C, h, w], None for a classifier. `network` replaces the
        policy."""
        network = network or self.policy.network
        if self.policy.is_classifier:
            with self.accelerator.autocast():
                score = network(problem.noisy, problem.timestep, problem.conditioning["embeddings"]).float()  # [M]
            return by_image(score * (-2 / self.beta), problem), None
        prediction = self.predict(network, problem)
        return self.errors(problem, prediction), prediction

    def reference_errors(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        """The reference's errors [K, B] and predictions [M, C, h, w], without gradient."""
        prediction = self._of(self.reference, problem)
        return self.errors(problem, prediction), prediction

    def start_prediction(self, problem: Problem) -> torch.Tensor:
        """Predictions [M, C, h, w] of the model that the run started from, without gradient."""
        return self._of(self.start, problem)

    def _of(self, lent: Reference, problem: Problem) -> torch.Tensor:
        with torch.no_grad(), lent() as network:
            return self.predict(network, problem)

    def logits(self, problem: Problem) -> torch.Tensor:
        """The policy's logit of every pair [B] against the model that the run started from, without gradient."""
        return self.compared(problem)[0]

    @torch.no_grad()
    def compared(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        """The policy's logit of every pair against the model that the run started from, and how far its denoising error
        rose above that model's, mean of both images: [B] each, without gradient. A classifier's rise means nothing."""
        error, _ = self.policy_errors(problem)
        start = torch.zeros_like(error)
        if not self.policy.is_classifier:
            start = self.errors(problem, self.start_prediction(problem))
        return logit(error[0], error[1], start[0], start[1], self.beta), (error - start).mean(dim=0)


def by_image(values: torch.Tensor, problem: Problem) -> torch.Tensor:
    """Values of all noised images [M, ...] by the image of the row, [K, B, ...]."""
    return values.view(problem.images, -1, *values.shape[1:])
