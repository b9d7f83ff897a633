"""The dry run: everything that would stop a training is looked for, and what it would need is estimated. Writes
nothing."""

from accelerate import Accelerator

from palate.backbones import Backbone
from palate.backbones.conditioning import Conditioning
from palate.data.dataset import PreferenceDataset
from palate.distributed import processes
from palate.encoding.cache import EncodedPairs, planned_cache
from palate.labels.rows import Rows
from palate.network.model import let_go_of_encoders
from palate.progress import duration
from palate.run.config import TrainConfig
from palate.training.assemble import make_any_policy, make_batches
from palate.training.estimate import GIB, Memory, estimate_memory, free_memory, measure_step, refuse_too_little
from palate.training.precomputed import open_precomputed


def tell_plan(
    config: TrainConfig, dataset: PreferenceDataset, backbone: Backbone, rows: Rows, accelerator: Accelerator
) -> None:
    """Print what a run would do and need. Raises PalateError where it would be refused."""
    make_batches(rows, config)  # refuses what cannot be
    storage, _, other = planned_cache(dataset, backbone, config.resolution, place=config.cache)
    encoded = EncodedPairs(storage)
    new = len(dataset) - len(encoded)
    print(f"dry run: {new:,} of {len(dataset):,} pairs would be encoded first" + (f" ({other})" if other else ""))
    if config.reference == "precomputed":
        open_precomputed(encoded, backbone, config, rows.require(encoded) if len(encoded) else rows)
    told = _conditioning(backbone, encoded, config)
    if config.trains == "denoiser":
        memory = estimate_memory(backbone, config, told)
        refuse_too_little(memory, backbone, config, told)
        _tell_memory(memory, backbone)
    if config.parallel == "fsdp2" and max(config.processes, processes()) > 1:
        print("dry run: time is not measured, as one process alone cannot hold the model")
    else:
        policy = make_any_policy(backbone, config)
        if config.trains == "denoiser":
            step = measure_step(backbone, config, policy, told, accelerator)
            whole = duration(step * config.max_train_steps)
            print(f"dry run: {step:.2f} s for a step of random inputs, {whole} for {config.max_train_steps} of them")
    pairs = config.train_batch_size * config.gradient_accumulation_steps
    print(
        f"dry run: {config.max_train_steps} steps of {pairs} pairs are {config.max_train_steps * pairs / len(rows):.1f}"
        f" passes over {len(rows):,} pairs"
    )


def _tell_memory(memory: Memory, backbone: Backbone) -> None:
    print(f"dry run: {memory.trained:,} of {memory.parameters:,} parameters would be trained")
    print(
        f"dry run: memory for tensors {memory.line()}; {free_memory(backbone.device) / GIB:.1f} GiB are free on"
        f" {backbone.device}"
    )


def _conditioning(backbone: Backbone, encoded: EncodedPairs, config: TrainConfig) -> Conditioning:
    """What a network is told of one image: its shapes are what matters."""
    if encoded.holds_prompts([""]).all():
        prompt = encoded.prompt_conditioning([""])
    else:
        prompt = backbone.encode_prompts([""])
        let_go_of_encoders(backbone)
    size = config.resolution or backbone.resolution
    return prompt | backbone.image_conditioning(size, size, size)
