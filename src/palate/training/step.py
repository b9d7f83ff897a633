"""One micro-batch: predictions of policy and reference at the addressed draws, the loss, its gradient."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from palate.backbones import StableDiffusion
from palate.errors import PalateError
from palate.objectives.adaptive import adaptive_margin, adaptive_weight, label_side, minority_metric, winner_margin
from palate.objectives.links import LINKS
from palate.objectives.logit import denoising_error, logit
from palate.objectives.safeguard import loser_scale, protected_errors, pulls_image_0
from palate.training.batches import Batches
from palate.training.cache import EncodedPairs
from palate.training.config import TrainConfig
from palate.training.draws import draws
from palate.training.labels import RunLabels
from palate.training.metrics import PairReadings
from palate.training.model import Policy
from palate.training.reference import SharedErrors


class Snapshots:
    """Adaptive-DPO's annotators beside the current model: a slow and a fast moving average of the trained parameters.

    Decays 0.9999 and 0.5 with the warm-up min(decay, (1 + k)/(10 + k)), as in the published code.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]):
        self.averages = [EMAModel(parameters, decay=0.9999), EMAModel(parameters, decay=0.5)]

    def update(self, parameters: list[torch.nn.Parameter]) -> None:
        for average in self.averages:
            average.step(parameters)

    def margins(self, parameters: list[torch.nn.Parameter], errors: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        """What `errors` gives with each average in place of the current parameters."""
        results = []
        for average in self.averages:
            average.store(parameters)
            average.copy_to(parameters)
            try:
                with torch.no_grad():
                    results.append(errors())
            finally:
                average.restore(parameters)
        return results

    def state(self) -> dict[str, torch.Tensor]:
        shadows = {
            f"{k}.{i}": tensor
            for k, average in enumerate(self.averages)
            for i, tensor in enumerate(average.shadow_params)
        }
        return shadows | {"steps": torch.tensor([average.optimization_step for average in self.averages])}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        for k, average in enumerate(self.averages):
            average.optimization_step = int(state["steps"][k])
            for i, shadow in enumerate(average.shadow_params):
                shadow.copy_(state[f"{k}.{i}"])


class Stepper:
    """Accumulates the gradient of one micro-batch at a time. Holds what stays the same over a run, and no state."""

    def __init__(
        self, config: TrainConfig, backbone: StableDiffusion, policy: Policy, reference: Callable, encoded: EncodedPairs,
        labels: RunLabels, batches: Batches, snapshots: Snapshots | None, shared: SharedErrors | None, accelerator: Accelerator,
    ):  # fmt: skip
        self.config, self.backbone, self.policy, self.reference = config, backbone, policy, reference
        self.encoded, self.labels, self.batches = encoded, labels, batches
        self.snapshots, self.shared, self.accelerator = snapshots, shared, accelerator
        self._loss = 0.0

    def accumulate(self, index: int) -> PairReadings:
        """Forward and backward of micro-batch `index`. Raises PalateError, naming the pairs, when the loss is no number."""
        config, device = self.config, self.accelerator.device
        batch = self.batches.at(index)
        pair_ids, numbers = self.labels.pair_id[batch.row].tolist(), batch.draw.tolist()
        target = torch.tensor(self.labels.target[batch.row], dtype=torch.float32, device=device)  # [B]
        weight = torch.tensor(self.labels.weight[batch.row] * batch.scale, dtype=torch.float32, device=device)  # [B]
        labelled = torch.tensor(self.labels.labelled[batch.row], device=device)  # [B]

        latents = self.encoded.latents(pair_ids).to(device)  # [B, 2, C, h, w]
        drawn = draws(config.seed, pair_ids, numbers, tuple(latents.shape[2:]), self.backbone.num_timesteps)
        prompts = [
            "" if u < config.prompt_dropout else self.encoded.prompt[p]
            for p, u in zip(pair_ids, drawn.uniform.tolist(), strict=True)
        ]
        embeddings = self.encoded.embeddings(prompts).to(device).repeat(2, 1, 1)  # [2B, L, D]
        timestep, noise = (
            drawn.timestep.to(device).repeat(2),
            drawn.noise.to(device).repeat(2, 1, 1, 1),
        )  # images 0, then images 1
        images = latents.transpose(0, 1).flatten(0, 1)  # [2B, C, h, w]
        noisy = self.backbone.add_noise(images, noise, timestep)
        regression_target = self.backbone.regression_target(images, noise, timestep)

        def predict(unet: torch.nn.Module) -> torch.Tensor:
            with self.accelerator.autocast():
                return self.backbone.predict(unet, noisy, timestep, embeddings).float()  # fp32 before any difference

        reference_0, reference_1 = self._reference_errors(
            pair_ids, numbers, lambda unet: denoising_error(predict(unet), regression_target)
        )
        margin, adaptive = torch.zeros_like(target), torch.ones_like(target)
        prediction = predict(self.policy.unet)
        error_0, error_1 = denoising_error(prediction, regression_target).chunk(2)
        z = logit(error_0, error_1, reference_0, reference_1, config.beta)
        if self.snapshots:
            snapshot_errors = self.snapshots.margins(
                self.policy.parameters, lambda: denoising_error(predict(self.policy.unet), regression_target)
            )
            margin, adaptive = self._adaptive(z.detach(), snapshot_errors, reference_0, reference_1, target, labelled)

        scale = torch.ones_like(target)
        if config.safeguard is not None:
            pulled_0 = pulls_image_0(z - margin, target, LINKS[config.link])
            residual_0, residual_1 = (prediction.detach() - regression_target).chunk(2)
            scale = loser_scale(residual_0, residual_1, pulled_0, config.safeguard, config.safeguard_mode)
            error_0, error_1 = protected_errors(error_0, error_1, pulled_0, scale)
            z = logit(error_0, error_1, reference_0, reference_1, config.beta)

        loss_per_pair = LINKS[config.link](z - margin, target)  # [B]
        loss = (weight * adaptive * loss_per_pair).mean()
        if not torch.isfinite(loss):
            self._refuse(index, pair_ids, loss_per_pair)
        self.accelerator.backward(loss / config.gradient_accumulation_steps)
        self._loss += loss.item() / config.gradient_accumulation_steps
        return PairReadings(
            logit=z.detach(), target=target, gain_0=(reference_0 - error_0).detach(), gain_1=(reference_1 - error_1).detach(),
            loss=loss_per_pair.detach(), scale=scale.expand_as(target), weight=adaptive, timestep=timestep[: len(target)], labelled=labelled,
        )  # fmt: skip

    def take_loss(self) -> float:
        """The loss accumulated since this was last asked."""
        loss, self._loss = self._loss, 0.0
        return loss

    def _reference_errors(
        self, pair_ids: list[str], numbers: list[int], errors: Callable
    ) -> tuple[torch.Tensor, torch.Tensor]:
        known = self.shared.lookup(pair_ids, numbers) if self.shared else None
        if known is None:
            with torch.no_grad(), self.reference() as unet:
                known = torch.stack(errors(unet).chunk(2), dim=1)  # [B, 2]
            if self.shared:
                self.shared.add(pair_ids, numbers, known)
        return tuple(known.to(self.accelerator.device).unbind(1))

    def _adaptive(
        self, z, snapshot_errors, reference_0, reference_1, target, labelled
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adaptive-DPO's margin and weight for pairs with a human vote; 0 and 1 for the others."""
        side, beta = label_side(target), self.config.beta
        logits = [z] + [logit(*errors.chunk(2), reference_0, reference_1, beta) for errors in snapshot_errors]
        margins = torch.stack([winner_margin(one, target, beta) for one in logits])  # [3, B]
        chosen = labelled & (side != 0)
        margin, weight = torch.zeros_like(z), torch.ones_like(z)
        if chosen.any():
            metric = minority_metric(margins[:, chosen])
            weight[chosen] = adaptive_weight(metric)
            margin[chosen] = side[chosen] * adaptive_margin(
                margins[0, chosen], metric, beta, self.config.adaptive_margin
            )
        return margin, weight

    def _refuse(self, index: int, pair_ids: list[str], loss_per_pair: torch.Tensor) -> None:
        bad = [
            pair_id for pair_id, fine in zip(pair_ids, torch.isfinite(loss_per_pair).tolist(), strict=True) if not fine
        ]
        step = index // self.config.gradient_accumulation_steps
        raise PalateError(
            f"step {step}: the loss is not a number, at pair {', '.join(bad[:5]) or 'unknown'}. Stopped; the last checkpoint in "
            f"{self.config.output_dir} is good. Lower learning_rate or beta, or look at these pairs."
        )
