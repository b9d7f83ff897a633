"""Pairs that the model makes itself: its samples against preferred images (SPIN), and ranked next steps (SPO,
TailorPO)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from palate.addresses import address, normal
from palate.backbones.conditioning import expand, move, repeat
from palate.backbones.trajectories import step_regression
from palate.distributed import first_alone, first_says, is_first, processes, wait
from palate.errors import PalateError
from palate.files import atomic_path
from palate.judges.rewards import Reward, load_reward
from palate.network.model import let_go_of_encoders
from palate.progress import progress_bar
from palate.run.checkpoint import checkpoints, step_of
from palate.training.batches import Batches
from palate.training.networks import Problem
from palate.training.rollouts import StepPairs, collect_step_pairs
from palate.training.sources import Setting, against_samples, as_sampled

SAMPLED_AT_ONCE = 32


def against_own_samples(setting: Setting, run: Path) -> Callable[[int], Problem]:
    """Preferred images against samples of the reference for the same prompts, made once and kept in the run."""
    path = run / "reference-samples.safetensors"
    if not first_says(path.exists()):
        sampled = _sample_reference(setting)  # by every process: a sharded network has to run in all of them
        let_go_of_encoders(setting.backbone)
        first_alone(lambda: _save(path, sampled))
    return against_samples(setting, load_file(path)["latents"])


def _save(path: Path, latents: torch.Tensor) -> None:
    with atomic_path(path) as temporary:
        save_file({"latents": latents}, temporary)


def ranked_steps(setting: Setting, run: Path) -> Callable[[int], Problem]:
    """Pairs of next steps sampled by the policy itself, anew every `refresh_steps` optimiser steps.

    Each round is written into the run before it is used, so that a run which goes on in the middle of a round has the
    pairs of the policy that began it.
    """
    config = setting.config
    assert config.reward is not None  # source: steps asks for one
    reward = load_reward(config.reward)
    per_round = config.refresh_steps * config.gradient_accumulation_steps
    held: dict[int, StepPairs] = {}

    def problem(index: int) -> Problem:
        number = index // per_round
        if number not in held:
            held.clear()
            held[number] = _round(setting, run, number, reward)
        pool = held[number]
        size = min(config.train_batch_size, len(pool))
        if size < config.train_batch_size and processes() > 1:
            raise PalateError(
                f"round {number} of sampling left {size} pairs, and {processes()} processes share a batch of"
                f" {config.train_batch_size}. Lower train_batch_size or reward_gap, or raise prompts_per_round."
            )
        batch = Batches(np.ones(len(pool), bool), size, None, f"{config.seed}/{number}").at(index - number * per_round)
        return _step_problem(setting, pool, torch.from_numpy(batch.row), f"{number}/")

    return problem


def _round(setting: Setting, run: Path, number: int, reward: Reward) -> StepPairs:
    path = run / "steps" / _round_name(number)
    if first_says(path.exists()):
        return StepPairs.load(path)
    config, prompts = setting.config, setting.rows.prompt
    order = sorted(range(len(prompts)), key=lambda i: address("round", config.seed, number, prompts[i]))
    chosen = [prompts[order[i % len(order)]] for i in range(config.prompts_per_round)]
    pairs = collect_step_pairs(
        setting.backbone,
        setting.networks.policy.network,
        chosen,
        (config.seed, number),
        reward,
        steps=config.sampling_steps,
        guidance=config.sampling_guidance,
        first_step=config.first_sampling_step,
        candidates=config.candidates,
        threshold=config.reward_gap,
        temperature=config.reward_temperature,
        resolution=config.resolution,
    )
    if is_first():  # every process has sampled, as a sharded network has to run in all of them
        pairs.save(path)
        oldest = min((step_of(kept) for kept in checkpoints(run)), default=0) // config.refresh_steps
        for older in path.parent.glob("round-*.safetensors"):  # a checkpoint may lie in the middle of its round
            if older.name < _round_name(oldest):
                older.unlink()
    wait()
    return StepPairs.load(path) if processes() > 1 else pairs


def _round_name(number: int) -> str:
    return f"round-{number:05}.safetensors"


def _step_problem(setting: Setting, pool: StepPairs, row: torch.Tensor, prefix: str) -> Problem:
    """The pairs of these rows as regression: towards each candidate, with the precision of the step (SPO)."""
    device, schedule, kind = setting.device, setting.schedule, setting.prediction_type
    noisy, here, there = (tensor[row].to(device) for tensor in (pool.noisy, pool.timestep, pool.previous))
    parts = [
        step_regression(noisy, n[row].to(device), here, there, schedule, kind, pool.eta)
        for n in (pool.next_0, pool.next_1)
    ]
    prompts = [pool.prompt[i] for i in row.tolist()]
    rows, of_image = len(row), as_sampled(setting.backbone, setting.config.resolution or setting.backbone.resolution)
    conditioning = setting.encoded.prompt_conditioning(prompts) | expand(of_image, rows)
    return Problem(
        row=torch.zeros(rows, dtype=torch.int64),
        row_id=[f"{prefix}{i}" for i in row.tolist()],
        number=[0] * rows,
        noisy=noisy.repeat(2, 1, 1, 1),
        timestep=here.repeat(2),
        conditioning=repeat(move(conditioning, device), 2),
        regression_target=torch.cat([target for target, _ in parts]),
        error_weight=torch.cat([weight for _, weight in parts]),
        target=pool.probability[row].to(device),
        weight=torch.ones(rows, device=device),
        labelled=torch.ones(rows, dtype=torch.bool, device=device),
        one_input=True,
        guidance=pool.guidance,
        unconditional=move(setting.encoded.prompt_conditioning([""]) | of_image, device),
    )


@torch.no_grad()
def _sample_reference(setting: Setting) -> torch.Tensor:
    """One sample of the reference for the prompt of every row, latents [N, C, h, w], from addressed noise."""
    config, backbone, rows = setting.config, setting.backbone, setting.rows
    side = config.resolution or backbone.resolution
    shape = backbone.latent_shape(side)
    parts = []
    with progress_bar("sampling the reference", len(rows)) as advance, setting.networks.reference() as network:
        pipeline = backbone.pipeline(network, DDIMScheduler)
        for start in range(0, len(rows), SAMPLED_AT_ONCE):
            index = range(start, min(start + SAMPLED_AT_ONCE, len(rows)))
            noise = torch.stack([normal(shape, "reference sample", config.seed, rows.id[i]) for i in index])
            parts.append(
                pipeline(
                    [rows.prompt[i] for i in index],
                    latents=noise.to(setting.device),
                    num_inference_steps=config.sampling_steps,
                    guidance_scale=config.sampling_guidance,
                    output_type="latent",
                    height=side,
                    width=side,
                )
                .images.float()
                .cpu()
            )
            advance(len(index))
    return torch.cat(parts)
