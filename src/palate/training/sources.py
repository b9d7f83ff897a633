"""Sources of the noised images of a step. A source is a function from the index of a micro-batch to a Problem.

Everything drawn is addressed by the row and the number of its draw, so a source has no state that a resumed run would
need (source: steps writes what it sampled into the run).
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from palate.addresses import address, normal
from palate.arrays import Floats, Ints
from palate.backbones import Backbone
from palate.backbones.conditioning import Conditioning, concatenate, expand, move, repeat
from palate.backbones.trajectories import ddim_grid, ddim_step, invert, signal_and_spread, x0_and_noise
from palate.distributed import largest
from palate.encoding.cache import EncodedPairs
from palate.errors import PalateError
from palate.labels.rows import Rows
from palate.objectives.regions import region_mask
from palate.run.config import TrainConfig
from palate.training.batches import Batch, Batches
from palate.training.draws import Draws, Number, draws
from palate.training.networks import Networks, Problem

JITTER = 0.1  # of the noise that InPO's inversion adds per step, in units of the step's spread (released code)
TEACHER_GRID, TEACHER_STEPS = 25, 5  # Self-NPO (arXiv 2505.11777, released code)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The parts of a run that every source needs."""

    config: TrainConfig
    backbone: Backbone
    encoded: EncodedPairs
    rows: Rows
    batches: Batches | None
    networks: Networks
    device: torch.device

    @property
    def schedule(self) -> torch.Tensor:
        alphas_cumprod: torch.Tensor = self.backbone.noise_schedule.alphas_cumprod
        return alphas_cumprod.to(self.device, torch.float32)

    @property
    def prediction_type(self) -> str:
        return str(self.backbone.noise_schedule.config.prediction_type)

    def batch(self, index: int) -> Batch:
        """The rows of micro-batch `index`; a model that samples its own pairs (source: steps) has none."""
        assert self.batches is not None
        return self.batches.at(index)


def voted(setting: Setting) -> Callable[[int], Problem]:
    """Rows of encoded images, unchanged: pairs, single images, ranked lists."""

    def problem(index: int) -> Problem:
        batch = setting.batch(index)
        draws_each = setting.config.reference_draws
        numbers = batch.draw if draws_each is None else batch.draw % draws_each
        return rows_problem(setting, batch.row, numbers.tolist(), batch.scale)

    return problem


def against_others(setting: Setting) -> Callable[[int], Problem]:
    """A preferred image, and an image of another prompt under the first one's prompt (SUDO, arXiv 2504.14534)."""
    rows, seed = setting.rows, setting.config.seed
    if len(set(rows.prompt)) < 2:
        raise PalateError(
            "source: mismatch sets images against those of other prompts, but all pairs have the same prompt."
        )

    def other(row: int, number: int) -> int:
        """A row of another prompt, chosen by its address."""
        place = address("mismatch", seed, rows.id[row], number) % len(rows)
        while rows.prompt[place] == rows.prompt[row]:
            place = (place + 1) % len(rows)
        return place

    def problem(index: int) -> Problem:
        batch = setting.batch(index)
        numbers = batch.draw.tolist()
        others = [rows.images[other(row, number)][0] for row, number in zip(batch.row, numbers, strict=True)]
        second = setting.encoded.image_latents(others), setting.encoded.image_conditioning(others)
        return rows_problem(setting, batch.row, numbers, batch.scale, second)

    return problem


def against_samples(setting: Setting, sampled: torch.Tensor) -> Callable[[int], Problem]:
    """A preferred image, and the reference's own sample for its prompt, latents [N, C, h, w] (SPIN-Diffusion)."""

    def problem(index: int) -> Problem:
        batch = setting.batch(index)
        side = setting.config.resolution or setting.backbone.resolution
        second = sampled[torch.from_numpy(batch.row)], expand(as_sampled(setting.backbone, side), len(batch.row))
        return rows_problem(setting, batch.row, batch.draw.tolist(), batch.scale, second)

    return problem


def rows_problem(
    setting: Setting,
    row: Ints,
    numbers: Sequence[Number],
    scale: Floats,
    second: tuple[torch.Tensor, Conditioning] | None = None,
) -> Problem:
    """The Problem of these rows at these draws; `second` holds latents [B, C, h, w] and their images' conditioning, as
    the second image of every row."""
    config, rows, device = setting.config, setting.rows, setting.device
    images = max(len(rows.images[i]) for i in row)
    shown = [rows.images[i][k] for k in range(images) for i in row]
    latents, of_images = setting.encoded.image_latents(shown), setting.encoded.image_conditioning(shown)
    if second is not None:
        latents, of_images, images = torch.cat([latents, second[0]]), concatenate([of_images, second[1]]), images + 1
    latents = latents.to(device)  # [M, C, h, w]
    drawn, prompts = _draw(setting, row, numbers, tuple(latents.shape[1:]))
    conditioning = move(repeat(setting.encoded.prompt_conditioning(prompts), images) | of_images, device)
    timestep = setting.backbone.timestep(drawn.timestep).to(device).repeat(images)
    noise = drawn.noise.to(device).repeat(images, 1, 1, 1)
    if config.noise == "random":
        noisy = setting.backbone.add_noise(latents, noise + drawn.added.to(device).repeat(images, 1, 1, 1), timestep)
    else:
        noisy, noise = _inverted(
            setting, latents, timestep, conditioning, list(zip(rows.id[row], numbers, strict=True))
        )
    region = None
    if config.region is not None:
        first, other = latents.chunk(2)
        region = region_mask(first, other, config.region).repeat(2, 1, 1, 1)
    return Problem(
        row=torch.from_numpy(np.asarray(row)),
        row_id=rows.id[row].tolist(),
        number=numbers,
        noisy=noisy,
        timestep=timestep,
        conditioning=conditioning,
        regression_target=setting.backbone.regression_target(latents, noise, timestep),
        images=images,
        region=region,
        x0_scale=_x0_scale(setting, timestep) if "nft" in config.losses else None,
        target=_column(rows.target[row], device),
        weight=_column(rows.weight[row] * scale, device),
        labelled=torch.tensor(rows.labelled[row], device=device),
        rank=None if rows.rank is None else _column(rows.rank[row], device),
        present=None if rows.present is None else torch.tensor(rows.present[row], device=device),
    )


def redraw(setting: Setting) -> Callable[[Problem, int], Problem]:
    """The same rows at the k-th draw of the model's own votes; the loss never uses these draws."""

    def again(problem: Problem, k: int) -> Problem:
        row = problem.row.numpy()
        return rows_problem(setting, row, [f"vote {number} {k}" for number in problem.number], np.ones(len(row)))

    return again


def from_teacher(setting: Setting) -> Callable[[int], Problem]:
    """The reference's unconditional x_0 as the target of a noisier input with the prompt (Self-NPO, arXiv 2505.11777).

    A real latent is noised to a step of a grid of 25; the reference runs up to 5 unconditional steps from there. Its
    x_0 at the end is the target; its state at the end, noised again to a random higher timestep, is the policy's input.
    """
    schedule, kind, networks = setting.schedule, setting.prediction_type, setting.networks
    grid = ddim_grid(setting.backbone.num_timesteps, TEACHER_GRID)[1:].tolist()  # without the clean image

    def problem(index: int) -> Problem:
        config, rows, device = setting.config, setting.rows, setting.device
        batch = setting.batch(index)
        numbers, count = batch.draw.tolist(), len(batch.row)
        shown = [rows.images[i][0] for i in batch.row]
        latents, of_images = setting.encoded.image_latents(shown).to(device), setting.encoded.image_conditioning(shown)
        drawn, prompts = _draw(setting, batch.row, numbers, tuple(latents.shape[1:]))
        keys = [("teacher", config.seed, rows.id[row], number) for row, number in zip(batch.row, numbers, strict=True)]
        start = torch.tensor([1 + address(*key, "start") % (len(grid) - 1) for key in keys])  # place in the grid
        steps = torch.tensor(
            [
                1 + address(*key, "steps") % min(TEACHER_STEPS, int(place))
                for key, place in zip(keys, start, strict=True)
            ]
        )
        levels = torch.tensor(grid, device=device)
        state = setting.backbone.add_noise(latents, drawn.noise.to(device), levels[start])
        empty = move(setting.encoded.prompt_conditioning([""] * count) | of_images, device)
        x0 = latents
        with torch.no_grad(), networks.reference() as network:
            for k in range(largest(int(steps.max()))):  # a sharded network runs equally often in every process
                going = (steps > k).to(device)
                place = (start - k).clamp_min(1)
                now, then = levels[place], levels[place - 1]
                prediction = networks.raw_predict(network, state, now, empty)
                clean, _ = x0_and_noise(prediction, state, now, schedule, kind)
                moved = ddim_step(state, prediction, now, then, schedule, kind)
                going = going.view(-1, 1, 1, 1)
                x0, state = torch.where(going, clean, x0), torch.where(going, moved, state)
        low = levels[(start - steps).clamp_min(0)]
        span = setting.backbone.num_timesteps - 1 - low.cpu()
        high = low + torch.tensor(
            [1 + address(*key, "high") % max(1, int(s)) for key, s in zip(keys, span, strict=True)], device=device
        )
        high = high.clamp_max(setting.backbone.num_timesteps - 1)
        noise = torch.stack([normal(tuple(latents.shape[1:]), *key, "again") for key in keys])
        signal = (schedule[high] / schedule[low]).view(-1, 1, 1, 1)
        noisy = signal.sqrt() * state + (1 - signal).sqrt() * noise.to(device)
        abar = schedule[high].view(-1, 1, 1, 1)
        implied = (noisy - abar.sqrt() * x0) / (1 - abar).sqrt()
        spread = (1 - schedule[high]).sqrt()
        return Problem(
            row=torch.from_numpy(batch.row),
            row_id=rows.id[batch.row].tolist(),
            number=numbers,
            noisy=noisy,
            timestep=high,
            conditioning=move(setting.encoded.prompt_conditioning(prompts) | of_images, device),
            regression_target=setting.backbone.regression_target(x0, implied, high),
            target=_column(rows.target[batch.row], device),
            weight=_column(rows.weight[batch.row] * batch.scale, device),
            labelled=torch.tensor(rows.labelled[batch.row], device=device),
            images=1,
            x0_scale=spread / schedule[high].sqrt() if kind == "epsilon" else spread,
        )

    return problem


def as_sampled(backbone: Backbone, side: int) -> Conditioning:
    """The conditioning of a picture of side x side pixels that the network makes itself: one row."""
    return backbone.image_conditioning(side, side, side)


def seed_of_draws(config: TrainConfig) -> int:
    """The seed in the address of voted pairs' draws: the run's own, or draw_seed, which runs with other seeds share."""
    return config.seed if config.reference_draws is None else config.draw_seed


def _draw(setting: Setting, row: Ints, numbers: Sequence[Number], shape: tuple[int, ...]) -> tuple[Draws, list[str]]:
    """The addressed draws of these rows, noise of `shape` [C, h, w], and their prompts after drop-out."""
    config, rows = setting.config, setting.rows
    ids = rows.id[row].tolist()
    drawn = draws(
        seed_of_draws(config), ids, numbers, shape, setting.backbone.num_timesteps, config.noise_offset,
        config.input_perturbation,
    )  # fmt: skip
    prompts = [
        "" if u < config.prompt_dropout else rows.prompt[i] for i, u in zip(row, drawn.uniform.tolist(), strict=True)
    ]
    return drawn, prompts


def _x0_scale(setting: Setting, timestep: torch.Tensor) -> torch.Tensor:
    """What the residual of a prediction is multiplied by to be that of x_0, [M] at timesteps [M]."""
    if setting.backbone.is_flow:
        return timestep.float() / setting.backbone.num_timesteps
    signal, spread = (values.flatten() for values in signal_and_spread(timestep, setting.schedule))
    return spread / signal if setting.prediction_type == "epsilon" else spread


def _inverted(
    setting: Setting,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    conditioning: Conditioning,
    keys: list[tuple[object, ...]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noised latents and the noise in them, by inversion with the current policy (SmPO, arXiv 2506.02698; InPO)."""
    config, networks = setting.config, setting.networks

    def predict(noisy: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return networks.raw_predict(networks.policy.network, noisy, at, conditioning)

    jitter = None
    if config.noise == "inversion":  # addressed, and shared by the images of a row
        shape = (config.inversion_steps, *latents.shape[1:])
        jitter = torch.stack([normal(shape, "jitter", config.seed, *key) for key in keys], dim=1)  # [steps, B, C, h, w]
        jitter = jitter.repeat(1, len(latents) // len(keys), 1, 1, 1).to(latents.device)
    with torch.no_grad():
        return invert(
            predict,
            latents,
            timestep,
            setting.schedule,
            setting.prediction_type,
            config.inversion_steps,
            config.noise == "renoise",
            jitter=0.0 if jitter is None else JITTER,
            noise=jitter,
        )


def _column(values: Floats, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)
