"""The configuration of a training run: every key, with everything that is to be known of it (keys.py says what). The
keys of the objective come from objective.py, those of how it is trained are here.

YAML files, dicts and options fill the same fields; values.py checks their types and bounds. The keys compose: source x
target x losses and link x weights and margins x safeguard. What cannot work together is refused in contradictions.py,
with the reason.
"""

from dataclasses import dataclass
from typing import Literal

from palate.run.keys import (
    ADAPTERS,
    BOOKS,
    GUARD,
    MODEL,
    PROCESSES,
    REFERENCE,
    SEEDS,
    SPIKES,
    STEPS,
    TIMESTEPS,
    key,
)
from palate.run.objective import ObjectiveConfig


@dataclass
class LoraOptions:
    """Low-rank adapters; the reference is the model with the adapter switched off."""

    rank: int = key(16, ADAPTERS, resume="fixed", folds="same", error="no", low=1, high=4096, told="trained")
    """Rank of each adapter's two matrices."""
    alpha: float | None = key(None, ADAPTERS, resume="fixed", folds="same", error="no", low=1e-6)
    """Scale numerator; the rank when absent."""
    target_modules: tuple[str, ...] = key(
        ("to_q", "to_k", "to_v", "to_out.0"), ADAPTERS, resume="fixed", folds="same", error="no"
    )
    """Names of the modules that get adapters."""


@dataclass
class TrainConfig(ObjectiveConfig):
    """Train a text-to-image diffusion model on the votes of a dataset.

    Interrupted? Run the same command again: it resumes from the newest checkpoint and ends where it would have ended.
    """

    weighting_scheme: Literal["logit_normal", "none"] = key(
        "logit_normal", TIMESTEPS, resume="fixed", folds="same", error="timesteps"
    )
    """How likely each timestep of a flow-matching model is: logit-normal, or uniform; then shifted as its scheduler
    says."""
    logit_mean: float = key(0.0, TIMESTEPS, resume="fixed", folds="same", error="timesteps", low=None)
    """Mean of the logit-normal distribution, as in diffusers' scripts: above 0 is less noise."""
    logit_std: float = key(1.0, TIMESTEPS, resume="fixed", folds="same", error="timesteps", low=None)
    """Its standard deviation."""

    trains: Literal["denoiser", "classifier"] = key(
        "denoiser", MODEL, resume="fixed", folds="same", error="no", told="trained"
    )
    """The denoiser itself, or a small preference classifier that guides it while sampling (PC-Diffusion)."""
    lora: LoraOptions | None = key(
        None, MODEL, resume="fixed", folds="same", error="no", told="trained", remedies=(LoraOptions(),), first=True
    )
    """Train adapters ({rank: 16} in the file; then --lora.rank and its like are options); full fine-tuning when
    absent."""
    resolution: int | None = key(None, MODEL, resume="fixed", folds="same", error="pairs", low=8, unit="pixels")
    """Pixels along one side; the model's own resolution when absent."""
    gradient_checkpointing: bool = key(
        False, MODEL, resume="fixed", folds="same", error="no", told="nowhere", remedies=(True,)
    )
    """Compute activations again in the backward pass instead of keeping them: less memory, more time, the same
    gradients."""
    mixed_precision: Literal["no", "fp16", "bf16"] = key(
        "no", MODEL, resume="fixed", folds="same", error="value", told="precision", remedies=("bf16",), first=True
    )
    """Type of the networks' arithmetic (autocast); errors and logits stay fp32."""
    weight_dtype: Literal["fp32", "fp16", "bf16"] = key(
        "fp32",
        MODEL,
        resume="fixed",
        folds="same",
        error="no",
        remedies=("bf16",),
        remedy_sets={"mixed_precision": "bf16"},
    )
    """Type in which frozen weights are held: the base model under LoRA, the reference's copy otherwise. The type of
    mixed_precision halves their memory and changes no result."""
    tf32: bool = key(False, MODEL, resume="fixed", folds="same", error="value")
    """On GPUs that have it: matrix products and convolutions of fp32 numbers with 10 bits of fraction (TF32). Faster,
    and coarser."""
    compile: bool = key(False, MODEL, resume="fixed", folds="same", error="value")
    """Compile the networks with torch.compile: minutes at the start, faster steps."""

    reference: Literal["auto", "adapter-off", "copy", "offloaded", "precomputed", "ema", "round"] = key(
        "auto",
        REFERENCE,
        resume="fixed",
        folds="same",
        error="no",
        remedies=("precomputed",),
        remedy_sets={"reference_draws": 1},
    )
    """Where the reference comes from. adapter-off: the policy without its adapters. copy: a frozen copy. offloaded: a
    frozen copy in the CPU's memory. precomputed: errors that `palate encode` has computed. auto: adapter-off with LoRA,
    copy otherwise. ema and round: it moves, as an average of the policy or as its copy; the start stays what validation
    compares with."""
    reference_decay: float = key(0.99, REFERENCE, resume="fixed", folds="same", error="no", low=0, high=0.999999)
    """With reference: ema: the share of the reference that each move keeps."""
    reference_steps: int | None = key(None, REFERENCE, resume="fixed", folds="same", error="no", low=1, unit="steps")
    """Optimiser steps between two moves. Absent, ema moves at every step, and round whenever held-out votes are better
    by more than a standard error than at its last move."""
    reference_warmup: Literal["none", "ratio", "linear"] = key(
        "none", REFERENCE, resume="fixed", folds="same", error="no"
    )
    """How the decay reaches reference_decay. none: it is there at once. ratio: (1 + k)/(10 + k) at step k. linear:
    reference_rise for each step after reference_wait (DiffusionNFT)."""
    reference_rise: float = key(0.001, REFERENCE, resume="fixed", folds="same", error="no", low=0, high=1)
    """What the decay gains in a step of the linear warm-up."""
    reference_wait: int = key(0, REFERENCE, resume="fixed", folds="same", error="no", low=0, unit="steps")
    """Optimiser steps before it, in which the reference is the policy itself."""
    reference_draws: int | None = key(None, REFERENCE, resume="fixed", folds="same", error="draws", low=1)
    """Each pair has only this many draws, visited in turn and addressed by draw_seed; a new draw at every visit when
    absent."""
    draw_seed: int = key(0, REFERENCE, resume="fixed", folds="same", error="draws", low=0, high=SEEDS)
    """With reference_draws: seed of the draws, in place of the run's, so that runs of all seeds share them."""
    share_reference: bool = key(False, REFERENCE, resume="fixed", folds="same", error="no", told="nowhere")
    """Keep the reference's errors that a run computes beside the encoded pairs, for every run that visits the same
    draws."""

    seed: int = key(0, STEPS, resume="fixed", folds="same", error="draws", low=0, high=SEEDS, told="seed", first=True)
    """The seed of batches, draws, adapters and cross-fitting."""
    train_batch_size: int = key(
        8,
        STEPS,
        resume="fixed",
        folds="same",
        error="rounding",
        low=1,
        unit="pairs",
        told="steps",
        remedies=(1,),
        first=True,
    )
    """Pairs per forward pass."""
    labelled_per_batch: int | None = key(None, STEPS, resume="fixed", folds="same", error="no", low=1, unit="pairs")
    """How many of them have a human vote; half when a method uses both kinds, at least one."""
    batches: Literal["stratified", "uniform"] = key("stratified", STEPS, resume="fixed", folds="same", error="no")
    """Fixed numbers of pairs with and without a human vote in every batch, or batches drawn from all pairs alike."""
    gradient_accumulation_steps: int = key(
        1, STEPS, resume="fixed", folds="same", error="no", low=1, told="steps", first=True
    )
    """Forward and backward passes of an optimiser step."""
    max_train_steps: int = key(
        1000,
        STEPS,
        resume="free",
        folds="same",
        error="no",
        low=1,
        unit="steps",
        told="steps",
        first=True,
    )
    """Optimiser steps."""
    num_train_epochs: float | None = key(
        None, STEPS, resume="free", folds="same", error="no", low=0.01, unit="passes", told="nowhere"
    )
    """Passes over the pairs (rows, for other sources), rounded up to whole steps; replaces max_train_steps."""
    optimizer: Literal["adamw", "adamw-8bit", "adafactor"] = key(
        "adamw", STEPS, resume="fixed", folds="same", error="no", remedies=("adamw-8bit", "adafactor")
    )
    """adamw-8bit (needs palate[8bit]) holds AdamW's moments in 8 bits; adafactor holds rows and columns of the second
    one."""
    ema_decay: float | None = key(None, STEPS, resume="fixed", folds="same", error="no", low=0, high=0.999999)
    """Average the weights over the steps with this decay, and save the average as the model; off when absent."""
    learning_rate: float = key(
        1e-5, STEPS, resume="fixed", folds="same", error="no", low=0, told="learning rate", first=True
    )
    """Size of a step, after the warm-up."""
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
    ] = key("constant_with_warmup", STEPS, resume="fixed", folds="same", error="no", told="learning rate")
    """How the learning rate changes after the warm-up."""
    lr_num_cycles: int = key(1, STEPS, resume="fixed", folds="same", error="no", low=1)
    """With cosine_with_restarts: how often it falls from the full rate to 0."""
    lr_power: float = key(1.0, STEPS, resume="fixed", folds="same", error="no", low=0.01)
    """With polynomial: the power of the remaining share of the steps; 1 is linear, down to 1e-7."""
    lr_warmup_steps: int = key(0, STEPS, resume="fixed", folds="same", error="no", low=0, unit="steps")
    """Optimiser steps in which the learning rate rises from 0."""
    adam_beta1: float = key(0.9, STEPS, resume="fixed", folds="same", error="no", low=0, high=0.999999)
    """Decay of AdamW's first moment."""
    adam_beta2: float = key(0.999, STEPS, resume="fixed", folds="same", error="no", low=0, high=0.999999)
    """Decay of AdamW's second moment."""
    adam_weight_decay: float = key(0.01, STEPS, resume="fixed", folds="same", error="no", low=0)
    """AdamW's weight decay."""
    adam_epsilon: float = key(1e-8, STEPS, resume="fixed", folds="same", error="no", low=0)
    """The number that AdamW adds to the root of the second moment."""
    max_grad_norm: float = key(1.0, STEPS, resume="fixed", folds="same", error="no", low=0)
    """Largest norm of a gradient; a larger one is clipped to it."""

    on_spike: Literal["ignore", "stop", "roll-back"] = key("ignore", SPIKES, resume="free", folds="same", error="no")
    """At a gradient far larger than before. stop: end with the pairs named. roll-back: go back to the last checkpoint
    and leave out the steps since. A loss or gradient that is NaN or infinite always stops, or rolls back."""
    spike_factor: float = key(10.0, SPIKES, resume="free", folds="same", error="no", low=1.001)
    """How many times the median gradient norm of the last steps counts as a spike."""

    processes: int = key(1, PROCESSES, resume="free", folds="same", error="rounding", low=1, told="nowhere")
    """Processes on this machine that share the work, one for each GPU. They take parts of the same batches: the result
    is that of one process, to rounding."""
    parallel: Literal["ddp", "fsdp2"] = key(
        "ddp", PROCESSES, resume="free", folds="same", error="rounding", told="nowhere"
    )
    """The share of each of several processes. ddp: all weights. fsdp2: a share of weights, gradients and optimiser, for
    models that do not fit."""

    held_out_votes: float = key(0.0, GUARD, resume="fixed", folds="same", error="no", low=0, high=0.9)
    """Share of the pairs with human votes kept for validation (prompts stay together)."""
    validation_steps: int = key(50, GUARD, resume="fixed", folds="same", error="no", low=1, unit="steps")
    """Optimiser steps between validations."""
    validation_draws: int = key(8, GUARD, resume="fixed", folds="same", error="no", low=1)
    """Draws per held-out pair."""
    early_stop: int | None = key(None, GUARD, resume="fixed", folds="reset", error="no", low=1, unit="validations")
    """Stop after this many validations without a lower cross-entropy, and keep the best model; off when absent."""
    max_drift: float | None = key(None, GUARD, resume="free", folds="reset", error="no", low=1e-9)
    """Stop at the first validation at which the denoising error on held-out pairs, mean of both images, is this much
    above the base's: methods are then compared at equal drift. Off when absent."""

    checkpointing_steps: int = key(
        200, BOOKS, resume="free", folds="same", error="no", low=1, unit="steps", told="nowhere"
    )
    """Optimiser steps between complete states."""
    checkpoints_total_limit: int = key(2, BOOKS, resume="free", folds="same", error="no", low=1, told="nowhere")
    """How many complete states are kept; older ones are deleted."""
    report_to: Literal["tensorboard", "none"] = key(
        "tensorboard", BOOKS, resume="free", folds="reset", error="no", told="nowhere", reset_to="none"
    )
    """TensorBoard needs palate[trackers]; metrics.jsonl is always written."""

    def __post_init__(self) -> None:
        if isinstance(self.judge, list | tuple) and len(self.judge) == 1:
            self.judge = self.judge[0]
