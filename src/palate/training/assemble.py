"""Build the parts of a run from its configuration: functions and objects that do not read the configuration again."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from palate.backbones import Backbone
from palate.data.dataset import PreferenceDataset
from palate.distributed import first_before_others, processes
from palate.encoding.cache import encode_more_prompts, encode_pairs
from palate.labels.rows import Rows
from palate.network.averages import Average
from palate.network.model import (
    Policy,
    let_go_of_encoders,
    make_classifier,
    make_policy,
    on_cpu,
    starting_network,
)
from palate.network.sharding import shard
from palate.objectives.timestep_weights import Spread
from palate.run.checks import moves, needs_start
from palate.run.config import TrainConfig
from palate.training.batches import Batches
from palate.training.compiled import compile_network
from palate.training.moving import MovingReference
from palate.training.networks import Networks, Problem, Reference
from palate.training.other_prompts import of_two_prompts, perturbed, prompts_beside
from palate.training.own_pairs import against_own_samples, ranked_steps
from palate.training.pair_weights import PairWeights
from palate.training.precomputed import known_errors
from palate.training.rates import Rates
from palate.training.reference import make_reference
from palate.training.snapshots import MinorityRecord, Snapshots
from palate.training.sources import Setting, against_others, from_teacher, redraw, voted
from palate.training.spikes import Spikes
from palate.training.step import Stepper
from palate.training.validation import Validation, make_validation

Follower = Snapshots | Average | MovingReference  # follows the weights after every optimiser step
Kept = Follower | MinorityRecord | Rates | Validation | Spikes | Spread  # what a step changes beside the weights


@dataclass(frozen=True)
class Parts:
    """The parts that the training loop uses."""

    rows: Rows
    policy: Policy
    stepper: Stepper
    followers: list[Follower]
    records: dict[str, MinorityRecord | Rates]  # by the name of the file that they become at the end
    validation: Validation | None
    average: Average | None  # one of the followers
    spikes: Spikes | None
    margins: Spread | None

    @property
    def kept(self) -> list[Kept]:
        """What a step changes beside the weights, for checkpoints."""
        parts = (*self.followers, *self.records.values(), self.validation, self.spikes, self.margins)
        return [part for part in parts if part]


def assemble(
    config: TrainConfig,
    dataset: PreferenceDataset,
    backbone: Backbone,
    rows: Rows,
    accelerator: Accelerator,
    run: Path,
    policy: Policy | None = None,
    reference: Reference | None = None,
) -> Parts:
    """Encode missing pairs, and build the parts around the given policy and reference, or around a new policy whose
    reference is its starting point."""
    beside = prompts_beside(config, rows.prompt)
    encoded = first_before_others(
        lambda: encode_more_prompts(
            encode_pairs(dataset, backbone, config.resolution, place=config.cache), backbone, beside
        )
    )
    let_go_of_encoders(backbone)
    rows = rows.require(encoded)
    sharded = config.parallel == "fsdp2" and processes() > 1
    if sharded:
        backbone.device = "cpu"  # the whole network fits there; the device gets shards
    policy = policy or make_any_policy(backbone, config)
    spread = partial(shard, device=accelerator.device) if sharded else None
    start = reference or make_reference(policy, needs_start(config), config, spread)
    if config.compile:
        compile_network(policy.network)
    if spread:
        spread(policy.network)
        backbone.device = accelerator.device
    moving = MovingReference(policy, config) if moves(config) else None  # with shards once the policy has them
    reference = moving.network if moving else start
    networks = Networks(backbone, policy, reference, config.beta, accelerator, start if moving else None)
    setting = Setting(config, backbone, encoded, rows, make_batches(rows, config), networks, accelerator.device)
    snapshots = Snapshots(policy) if config.adaptive else None
    record = MinorityRecord(len(rows)) if config.adaptive else None
    shared = known_errors(encoded, backbone, config, rows)
    margins = Spread() if config.timestep_weight == "balanced" else None
    rates = Rates(rows.people, config) if rows.people is not None else None
    pair_weights = PairWeights(config, rows, redraw(setting), snapshots, record, backbone.num_timesteps, margins, rates)
    stepper = Stepper(config, networks, _make_source(setting, run), pair_weights, shared)
    average = Average(policy, config.ema_decay) if config.ema_decay is not None else None
    spikes = Spikes(config, run) if config.on_spike != "ignore" else None
    validation = make_validation(setting, moving)
    followers = [follower for follower in (snapshots, average, moving) if follower]
    written: dict[str, MinorityRecord | Rates | None] = {"minority.parquet": record, "reliability.parquet": rates}
    records = {name: one for name, one in written.items() if one is not None}
    return Parts(rows, policy, stepper, followers, records, validation, average, spikes, margins)


def make_any_policy(backbone: Backbone, config: TrainConfig) -> Policy:
    """The denoiser, or a classifier beside it."""
    if config.trains == "classifier":
        return make_classifier(backbone, config)
    if config.weight_dtype == "fp32":
        return make_policy(starting_network(backbone, config), config)
    with on_cpu(backbone):
        policy = make_policy(starting_network(backbone, config), config)
    policy.network.to(backbone.device)
    return policy


def make_batches(rows: Rows, config: TrainConfig) -> Batches | None:
    """The rows of each step; a model that samples its own pairs takes them from each round."""
    if config.source == "steps":
        return None
    return Batches(rows.labelled, config.train_batch_size, rows.labelled_per_batch, config.seed)


def _make_source(setting: Setting, run: Path) -> Callable[[int], Problem]:
    """The function from a micro-batch's index to its Problem, as the configuration's source says."""
    name = setting.config.source
    if name == "mismatch":
        return against_others(setting)
    if name == "prompt-mismatch":
        return of_two_prompts(setting)
    if name == "perturbed":
        return perturbed(setting)
    if name == "samples":
        return against_own_samples(setting, run)
    if name == "teacher":
        return from_teacher(setting)
    return ranked_steps(setting, run) if name == "steps" else voted(setting)
