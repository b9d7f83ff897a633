"""One training run, top to bottom: labels to targets, pairs to latents, steps, a model that diffusers loads."""

import contextlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.optimization import get_scheduler
from torch.optim.lr_scheduler import LambdaLR

from palate import distributed
from palate.arithmetic import flushed_denormals
from palate.backbones import Backbone, load_backbone
from palate.data.dataset import open_dataset
from palate.errors import PalateError
from palate.labels.rows import Rows
from palate.labels.votes import prepare_rows, save_account
from palate.network.model import Policy, check_adapters, is_merged, save_model
from palate.network.optimizers import make_optimizer, set_rates
from palate.network.precision import check_precision, use_tf32
from palate.network.sharding import is_sharded, like, number, whole
from palate.network.timesteps import choose_timesteps
from palate.progress import progress_bar
from palate.run.checkpoint import State, check_fits, load_newest_checkpoint, save_checkpoint
from palate.run.checks import check_family, judge_name
from palate.run.config import TrainConfig
from palate.run.load import base_model, load_config, refuse_another
from palate.run.metrics import MetricsLog, read_metrics
from palate.run.votes_used import save_votes_used
from palate.training.assemble import Kept, assemble, make_any_policy
from palate.training.compiled import check_compiled
from palate.training.estimate import refuse_hopeless
from palate.training.folder import claim_folder, claim_rows
from palate.training.plan import tell_plan
from palate.training.readings import everywhere, join, summarise
from palate.training.self_judge import cross_fitted_votes
from palate.training.spikes import Spike, rolled_back
from palate.training.unusual import unusual
from palate.training.validation import large_logit_warning


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its model and its metrics."""

    path: Path

    def __fspath__(self) -> str:
        """The run's folder, so that a run can be given wherever a path can."""
        return str(self.path)

    @property
    def model_path(self) -> Path:
        """The trained adapter or component folder."""
        return self.path / "model"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict per optimiser step."""
        return read_metrics(self.path)


@flushed_denormals()
def train_in_this_process(config: TrainConfig, dry_run: bool = False) -> Run:
    """This process's share of `train`: all of the work, or one part where a launcher started several processes."""
    config = load_config(config)
    with distributed.together():
        return rolled_back(config, lambda: _train(config, dry_run))


def _train(config: TrainConfig, dry_run: bool) -> Run:
    """The work of one process; with several, all run this."""
    run = Path(config.output_dir)
    if distributed.processes() > config.train_batch_size:  # a launcher may start more than `processes`
        raise PalateError(
            f"train_batch_size: {config.train_batch_size} rows for {distributed.processes()} processes, all of them"
            " together. Give each at least one."
        )
    if not dry_run:
        distributed.first_alone(lambda: claim_folder(run, config))

    dataset = open_dataset(config.dataset)
    backbone = load_backbone(**base_model(config))
    check_family(config, backbone)
    choose_timesteps(backbone, config)
    rows = prepare_rows(
        dataset, config, None if dry_run else cross_fitted_votes(dataset, config, train_in_this_process)
    )
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    use_tf32(config.tf32)
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    check_precision(config.mixed_precision, accelerator.device, backbone)
    backbone.device = accelerator.device
    make_optimizer([torch.nn.Parameter(torch.zeros(1))], config)  # refuses an optimiser that is not installed
    check_adapters(backbone, config)
    config = with_steps(config, rows)
    for sentence in unusual(config, backbone) if distributed.is_first() else []:
        print(f"train: WARNING: {sentence}")
    if dry_run:
        refuse_another(run, config)
        tell_plan(config, dataset, backbone, rows, accelerator)
        return Run(run)
    refuse_hopeless(backbone, config)
    distributed.first_alone(lambda: claim_rows(run, rows, config))
    parts = assemble(config, dataset, backbone, rows, accelerator, run)
    if distributed.is_first():
        save_account(parts.rows.account, run)
        save_votes_used(run, parts.rows.votes_used, config.start_from)
    policy, stepper, validation = parts.policy, parts.stepper, parts.validation
    optimizer, schedule = _make_optimizer(policy, config, accelerator)
    first = _resume(run, policy, parts.kept, optimizer, schedule, accelerator)

    if config.compile and first < config.max_train_steps:
        check_compiled(stepper.networks, stepper.source(first * config.gradient_accumulation_steps))

    def keep(done: int) -> None:
        beside = {name: tensor for part in parts.kept for name, tensor in part.state().items()}
        state = (whole(policy.state()), whole(beside), whole(_optimizer_state(optimizer, schedule, accelerator)))
        if distributed.is_first():
            save_checkpoint(run, State(done, *state), config.checkpoints_total_limit)

    if config.on_spike == "roll-back" and first == 0:
        keep(0)  # a first checkpoint to roll back to
    rows_of_each = [config.gradient_accumulation_steps * n for n in distributed.counts(config.train_batch_size)]
    log = MetricsLog(run, first, config.report_to == "tensorboard") if distributed.is_first() else None
    stopped, warned = validation is not None and validation.over, False
    if stopped and validation:
        print(f"train: done: it had stopped at step {first}: {validation.reason()}")
    with (
        progress_bar(f"training {run.name}", config.max_train_steps, first, "step") as advance,
        log or contextlib.nullcontext(),
    ):
        for step in range(first, first if stopped else config.max_train_steps):
            if parts.spikes and step in parts.spikes.left_out:
                advance(1)
                continue
            optimizer.zero_grad(set_to_none=True)
            first_micro = step * config.gradient_accumulation_steps
            micro_batches = range(first_micro, first_micro + config.gradient_accumulation_steps)
            readings = everywhere(join([stepper.accumulate(index) for index in micro_batches]), rows_of_each)
            finished = stepper.finish()
            norm = number(accelerator.clip_grad_norm_(policy.parameters, config.max_grad_norm))
            if parts.spikes:
                parts.spikes.look(step, norm, stepper.worst_pairs)
            elif not math.isfinite(norm) and accelerator.scaler is None:  # the scaler skips such steps itself
                raise Spike(step, "the gradient is NaN or infinite", stepper.worst_pairs())
            rate = float(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
            for follower in parts.followers:
                follower.update(policy.parameters)
            done = step + 1
            metrics = {"learning_rate": rate, "gradient_norm": norm, "loss": stepper.take_loss()} | finished
            metrics |= summarise(readings, config.beta, backbone.num_timesteps, judge_name(config))
            if validation and (done % config.validation_steps == 0 or done == config.max_train_steps):
                metrics |= validation.measure(stepper.networks)
                stopped = validation.over
            if log:
                log.write(step, metrics)
            if config.target in ("dedpo", "auto"):
                warned = large_logit_warning(metrics.get("largest_labelled_logit", 0.0), warned, print, step)
            if done % config.checkpointing_steps == 0 or done == config.max_train_steps or stopped:
                keep(done)
                if stepper.shared:
                    distributed.in_turn(stepper.shared.save)
            advance(1, _briefly(metrics))
            if stopped and validation:
                print(f"train: stopped at step {done}: {validation.reason()}")
                break
    if validation and not validation.over and config.max_drift is not None:
        told = f"the drift is {validation.drift:.3g} after {config.max_train_steps} steps"
        print(f"train: max_drift was not reached: {told}")
    if validation and validation.weights:
        policy.load_state(validation.weights)  # the best, not the last
    if parts.average:
        policy.load_state(parts.average.weights)
    weights = whole(policy.state())
    if distributed.is_first():
        for name, record in parts.records.items():
            record.save(run / name, parts.rows.id)
        save_model(_in_one_piece(policy, weights, config, backbone), run / "model", config, backbone)
    distributed.wait()
    return Run(run)


def with_steps(config: TrainConfig, rows: Rows) -> TrainConfig:
    """The configuration with `max_train_steps` for its number of epochs, where it gives one."""
    if config.num_train_epochs is None:
        return config
    each = config.train_batch_size * config.gradient_accumulation_steps
    steps = max(1, math.ceil(config.num_train_epochs * len(rows) / each - 1e-9))
    print(f"train: {config.num_train_epochs:g} passes over {len(rows):,} rows are {steps:,} steps of {each}")
    return replace(config, max_train_steps=steps)


def _briefly(metrics: dict[str, float]) -> str:
    """A step's part of the progress line: its loss, and how often the model agreed with its targets."""
    told = {"loss": metrics.get("loss"), "accuracy": metrics.get("rewards/accuracies")}
    return ", ".join(f"{name} {value:.3g}" for name, value in told.items() if value is not None)


def _in_one_piece(policy: Policy, weights: dict[str, torch.Tensor], config: TrainConfig, backbone: Backbone) -> Policy:
    """The policy in a form that can be saved: a new one on the CPU with these weights where it is in shards, or where
    adapters are merged into frozen weights in half precision, which would be saved rounded."""
    rounded = policy.is_lora and config.weight_dtype != "fp32" and is_merged(backbone, config)
    if not is_sharded(policy.network) and not rounded:
        return policy
    again = load_backbone(**base_model(config))
    policy = make_any_policy(again, replace(config, weight_dtype="fp32"))
    policy.load_state(weights)
    return policy


def _make_optimizer(
    policy: Policy, config: TrainConfig, accelerator: Accelerator
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    optimizer = make_optimizer(policy.parameters, config)
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )
    return accelerator.prepare_optimizer(optimizer), schedule  # in fp16 it unscales gradients and skips overflows


def _optimizer_state(optimizer: torch.optim.Optimizer, schedule: LambdaLR, accelerator: Accelerator) -> dict[str, Any]:
    scaler = accelerator.scaler.state_dict() if accelerator.scaler else {}
    return {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "scaler": scaler}


def _resume(
    run: Path, policy: Policy, kept: list[Kept], optimizer: torch.optim.Optimizer,
    schedule: LambdaLR, accelerator: Accelerator,
) -> int:  # fmt: skip
    """Load the newest checkpoint, if there is one; returns the first step to take."""
    state = load_newest_checkpoint(run)
    distributed.wait()  # all read before one writes, or deletes an old checkpoint
    if state is None:
        return 0
    check_fits(run, state, policy.state())
    policy.load_state(state.weights)
    for part in kept:
        part.load_state(state.beside)
    for place, parameter in enumerate(policy.parameters):
        moments = state.optimizer["optimizer"]["state"].get(place, {})
        moments.update({name: like(value, parameter) for name, value in moments.items() if torch.is_tensor(value)})
    optimizer.load_state_dict(state.optimizer["optimizer"])
    set_rates(optimizer, schedule, state.optimizer["schedule"]["last_epoch"])
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(state.optimizer["scaler"])
    print(f"train: resuming from step {state.step}")
    return state.step
