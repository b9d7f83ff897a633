"""The parts of a run put together: what a configuration names becomes functions and objects that know nothing of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from palate.backbones import Backbone
from palate.data.dataset import PreferenceDataset
from palate.distributed import first_before_others, processes
from palate.encoding.cache import encode_pairs
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
from palate.run.checks import needs_reference
from palate.run.config import TrainConfig
from palate.training.batches import Batches
from palate.training.compiled import compile_network
from palate.training.networks import Networks, Problem, Reference
from palate.training.own_pairs import against_own_samples, ranked_steps
from palate.training.pair_weights import PairWeights
from palate.training.precomputed import known_errors
from palate.training.reference import make_reference
from palate.training.snapshots import MinorityRecord, Snapshots
from palate.training.sources import Setting, against_others, from_teacher, redraw, voted
from palate.training.spikes import Spikes
from palate.training.step import Stepper
from palate.training.validation import Validation, make_validation

Kept = Snapshots | MinorityRecord | Validation | Average | Spikes  # what a step changes beside the weights


@dataclass(frozen=True)
class Parts:
    """What a loop turns."""

    rows: Rows
    policy: Policy
    stepper: Stepper
    snapshots: Snapshots | None
    record: MinorityRecord | None
    validation: Validation | None
    average: Average | None
    spikes: Spikes | None

    @property
    def kept(self) -> list[Kept]:
        """What a step changes beside the weights, for checkpoints."""
        return [part for part in (self.snapshots, self.record, self.validation, self.average, self.spikes) if part]


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
    """Encode what is not encoded yet, and build the parts around a new policy, whose reference is where it starts, or
    around those given."""
    encoded = first_before_others(lambda: encode_pairs(dataset, backbone, config.resolution, place=config.cache))
    let_go_of_encoders(backbone)
    rows = rows.require(encoded)
    sharded = config.parallel == "fsdp2" and processes() > 1
    if sharded:
        backbone.device = "cpu"  # whole there, only in shards on the device
    policy = policy or make_any_policy(backbone, config)
    spread = partial(shard, device=accelerator.device) if sharded else None
    reference = reference or make_reference(policy, needs_reference(config), config, spread)
    if config.compile:
        compile_network(policy.network)
    if spread:
        spread(policy.network)
        backbone.device = accelerator.device
    networks = Networks(backbone, policy, reference, config.beta, accelerator)
    setting = Setting(config, backbone, encoded, rows, make_batches(rows, config), networks, accelerator.device)
    snapshots = Snapshots(policy) if config.adaptive else None
    record = MinorityRecord(len(rows)) if config.adaptive else None
    shared = known_errors(encoded, backbone, config, rows)
    pair_weights = PairWeights(config, rows, redraw(setting), snapshots, record)
    stepper = Stepper(config, networks, _make_source(setting, run), pair_weights, shared)
    average = Average(policy, config.ema_decay) if config.ema_decay is not None else None
    spikes = Spikes(config, run) if config.on_spike != "ignore" else None
    return Parts(rows, policy, stepper, snapshots, record, make_validation(setting), average, spikes)


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
    """Which rows a step takes; a model that samples its own pairs takes them from each round."""
    if config.source == "steps":
        return None
    return Batches(rows.labelled, config.train_batch_size, rows.labelled_per_batch, config.seed)


def _make_source(setting: Setting, run: Path) -> Callable[[int], Problem]:
    """The function from a micro-batch's index to its problem that the configuration names."""
    name = setting.config.source
    if name == "mismatch":
        return against_others(setting)
    if name == "samples":
        return against_own_samples(setting, run)
    if name == "teacher":
        return from_teacher(setting)
    return ranked_steps(setting, run) if name == "steps" else voted(setting)
