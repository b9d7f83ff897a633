"""The configuration of a training run: every key, with everything that is to be known of it (keys.py says what).

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
    LOSS,
    METHOD,
    MODEL,
    PROCESSES,
    REFERENCE,
    REQUIRED,
    RUN,
    SAMPLED,
    SEEDS,
    SPIKES,
    STEPS,
    TIMESTEPS,
    VOTES,
    key,
)


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
class TrainConfig:
    """Train a text-to-image diffusion model on the votes of a dataset.

    Interrupted? Run the same command again: it goes on from the newest checkpoint and ends where it would have ended.
    """

    pretrained_model_name_or_path: str = key(
        REQUIRED, RUN, resume="fixed", folds="same", error="model", told="base model"
    )
    """A diffusers pipeline folder, a .safetensors file of a whole model, a hub name, or "world" (the small pipeline
    inside the package)."""
    dataset: str = key(REQUIRED, RUN, resume="free", folds="same", error="pairs", told="dataset")
    """The dataset folder with pairs and votes."""
    output_dir: str = key(REQUIRED, RUN, resume="free", folds="own", error="no", told="nowhere")
    """The run folder to write."""
    cache: str | None = key(None, RUN, resume="free", folds="same", error="no", told="nowhere")
    """Folder or URL (s3://, gs://, https:// and others of fsspec) where encoded pairs are kept; the dataset's own
    `cache` when absent."""
    revision: str | None = key(None, RUN, resume="fixed", folds="same", error="model", told="base model")
    """Revision of a hub model."""
    variant: str | None = key(None, RUN, resume="fixed", folds="same", error="model", told="base model")
    """Copy of the base model's weights to read, as in `*.fp16.safetensors`; a part that has one copy alone needs no
    word. Held in fp32 whatever it is."""
    vae: str | None = key(None, RUN, resume="fixed", folds="same", error="model", told="base model")
    """Another autoencoder of the same latent space in place of the base model's: a folder, a .safetensors file, or a
    hub name."""
    start_from: str | None = key(None, RUN, resume="fixed", folds="same", error="refused", told="started from")
    """A finished run with the same base model: start, and take the reference, where it ended (the next round of
    SPIN)."""

    method: str = key("dpo", METHOD, resume="fixed", folds="same", error="no", told="method", first=True)
    """A preset (`palate methods` lists them, `palate methods NAME` explains one): it sets the keys of its method; yours
    win."""
    recipe: Literal["none", "sd15", "sdxl"] = key("none", METHOD, resume="fixed", folds="same", error="no")
    """Also take the hyper-parameters that were published for this method and this model."""

    source: Literal["pairs", "images", "lists", "mismatch", "samples", "teacher", "steps"] = key(
        "pairs", VOTES, resume="fixed", folds="same", error="refused", told="target"
    )
    """What a step compares. pairs: pairs with votes. images: single images, liked or not. lists: ranked lists.
    mismatch: a preferred image against one of another prompt (SUDO). samples: a preferred image against a sample of the
    reference (SPIN). teacher: an image against the reference's unconditional view of it (Self-NPO). steps: two next
    steps of the model's own sampling, ranked by a reward (SPO, TailorPO)."""
    target: Literal["human", "mix", "dedpo", "judge", "auto"] = key(
        "human", VOTES, resume="fixed", folds="reset", error="no", told="target"
    )
    """human: human votes alone. mix: human votes, the judge's where there are none, as they are. dedpo: the judge's
    votes everywhere, debiased by the human ones. judge: the judge's votes alone.
    auto: human, or dedpo with the correction, residual and power of least risk for these votes."""
    judge: str | tuple[str, ...] | None = key(
        None, VOTES, resume="fixed", folds="reset", error="no", told="judge", first=True
    )
    """annotator_id of the judge whose votes are used, or a list of several that count together; "self" is the model in
    training."""
    hard_votes: bool = key(False, VOTES, resume="fixed", folds="same", error="no", told="target")
    """Take the judge's choice (0, 1) instead of its probability."""
    correction: Literal["covariates", "context", "calibrate", "none"] = key(
        "covariates", VOTES, resume="fixed", folds="same", error="no", told="correction of the judge"
    )
    """Correct the judge on the human votes first, cross-fitted: on its score and picture statistics, on
    both for each kind of prompt apart, on its score alone, or not at all. Only for targets that use a judge."""
    covariates: Literal["all", "statistics", "embeddings"] = key(
        "all", VOTES, resume="fixed", folds="same", error="no", told="correction of the judge"
    )
    """What correction: covariates (or context) looks at beside the judge: picture statistics, embeddings of the pictures (those that
    judges left in the dataset), or all that is there."""
    power: float | Literal["auto"] = key(
        1.0, VOTES, resume="fixed", folds="reset", error="no", low=0, high=1, told="target"
    )
    """DeDPO's power kappa: 1 is DeDPO, 0 human votes alone, auto the estimate from the human votes."""
    residual: float = key(1.0, VOTES, resume="fixed", folds="reset", error="no", low=0, high=1)
    """With target: dedpo. Share of the human-minus-judge residual that is kept: less than 1 is less noisy, and biased
    toward the judge. Choose it by held-out votes."""
    ramp: bool = key(False, VOTES, resume="fixed", folds="reset", error="no")
    """Doubly robust self-training: the correction of dedpo grows from 0 to 1 over the run. Biased until its end."""
    label_smoothing: float = key(
        0.0, VOTES, resume="fixed", folds="reset", error="no", low=0, high=0.499, told="weights"
    )
    """Conservative DPO: this share of the votes is taken to be wrong, and learned as such."""
    flip_rate: float = key(0.0, VOTES, resume="fixed", folds="reset", error="no", low=0, high=0.499, told="weights")
    """Robust DPO: votes are known to be wrong at this rate, and corrected for it; targets leave [0, 1]."""
    swap: bool = key(False, VOTES, resume="fixed", folds="reset", error="no", told="target")
    """Diffusion-NPO: train towards the image that was not preferred; the result is a negative model for sampling."""
    human_annotators: tuple[str, ...] | None = key(
        None, VOTES, resume="fixed", folds="same", error="no", told="human votes of"
    )
    """Count only these people's votes as human; all of them when absent."""
    human_votes: int | None = key(None, VOTES, resume="fixed", folds="same", error="no", low=1, unit="pairs")
    """Use the human votes of only this many pairs, chosen at random: how far would fewer labels have come?"""
    leave_out_fold: tuple[int, int] | None = key(None, VOTES, resume="fixed", folds="own", error="no", low=0)
    """[k, K]: leave out the k-th of K parts of the pairs with human votes (prompts stay together)."""
    self_judge: Literal["online", "cross-fitted"] = key("online", VOTES, resume="fixed", folds="same", error="no")
    """With judge: self. online: the model as it is at each step. cross-fitted: models trained without a part of the
    votes."""
    self_draws: int = key(4, VOTES, resume="fixed", folds="same", error="no", low=1)
    """Draws over which the model's own logit is averaged."""
    self_folds: int = key(2, VOTES, resume="fixed", folds="same", error="no", low=2)
    """Parts of the votes for the cross-fitted form: as many models are trained first."""
    list_length: int = key(4, VOTES, resume="fixed", folds="same", error="no", low=2)
    """Longest ranked list of a step; longer ones are split."""

    losses: dict[str, float] = key(
        lambda: {"preference": 1.0}, LOSS, resume="fixed", folds="same", error="no", low=None, told="loss"
    )
    """What is minimised, with weights: preference, winner (SFT), mapo, dspo-sd15, dspo-sdxl, kto, ranking, rankdpo,
    self-npo."""
    beta: float = key(5000.0, LOSS, resume="fixed", folds="same", error="no", low=0, told="beta", first=True)
    """Strength of the pull toward the reference: z = (beta/2)·[(e_ref,0 - e_0) - (e_ref,1 - e_1)], errors averaged over
    C, H, W."""
    link: Literal["sigmoid", "ipo", "hinge", "dmpo", "alpha-dpo", "holder", "squared-sigmoid", "smoothed", "linear"] = (
        key("sigmoid", LOSS, resume="fixed", folds="same", error="no", told="loss")
    )
    """From logit and target to loss."""
    link_parameter: float | None = key(None, LOSS, resume="fixed", folds="same", error="no", low=None)
    """The link's one parameter (ipo: margin, dmpo: alpha, alpha-dpo: alpha, holder: gamma, smoothed: gain); its default
    when absent."""
    dspo_beta: float = key(0.001, LOSS, resume="fixed", folds="same", error="no", low=None)
    """Weight of the score term in dspo-sd15."""
    mapo_beta: float = key(0.1, LOSS, resume="fixed", folds="same", error="no", low=None)
    """Weight of MaPO's odds term."""
    kto_utility: Literal["sigmoid", "loss-averse", "risk-seeking-1", "risk-seeking-2", "risk-seeking-3"] = key(
        "sigmoid", LOSS, resume="fixed", folds="same", error="no"
    )
    """Diffusion-KTO's utility."""
    region: float | None = key(None, LOSS, resume="fixed", folds="same", error="refused", low=0, high=0.999)
    """RN-DPO: compare errors only where the two images differ by more than this share of their largest difference."""
    noise: Literal["random", "inversion", "renoise"] = key(
        "random", LOSS, resume="fixed", folds="same", error="refused"
    )
    """The noise of a draw: random and shared by a pair, or each image's own, by inversion with the current model
    (InPO), or by ReNoise inversion (SmPO)."""
    inversion_steps: int = key(5, LOSS, resume="fixed", folds="same", error="no", low=1)
    """Steps of an inversion."""
    safeguard: float | None = key(None, LOSS, resume="fixed", folds="same", error="no", low=0, high=1, told="safeguard")
    """SDPO's mu in [0, 1], slack of the bound that keeps the preferred image from getting worse; off when absent."""
    safeguard_mode: Literal["pair", "batch", "published", "exact"] = key(
        "pair", LOSS, resume="fixed", folds="same", error="no", told="safeguard"
    )
    """One factor per pair; one per batch; the same with the published epsilon; or one per step from the gradients of
    the parameters themselves (a second backward pass)."""
    adaptive: bool = key(False, LOSS, resume="fixed", folds="same", error="no", told="weights")
    """Adaptive-DPO: weight human votes down where the model's snapshots suspect a minority vote."""
    adaptive_margin: Literal["published", "inside", "off"] = key(
        "published", LOSS, resume="fixed", folds="same", error="no"
    )
    """Where its margin acts: outside beta as published (numerically near 0), inside, or nowhere."""
    adaptive_sign: Literal["published", "consistent"] = key("published", LOSS, resume="fixed", folds="same", error="no")
    """Sign of its margin with link: ipo; published adds what the sigmoid form subtracts."""
    adaptive_memory: bool = key(False, LOSS, resume="fixed", folds="same", error="no")
    """Average the suspicion of a pair over its draws so far instead of taking each draw alone."""
    madpo: float | None = key(None, LOSS, resume="fixed", folds="reset", error="no", low=1e-6, told="weights")
    """MADPO's temperature: pairs on which the judge sees a small difference weigh more; off when absent. Needs a
    judge."""
    amapo: bool = key(False, LOSS, resume="fixed", folds="same", error="no", told="weights")
    """AMaPO: a margin for pairs on which the model lags behind the batch."""
    uncertainty: float | None = key(None, LOSS, resume="fixed", folds="reset", error="no", low=1e-6, told="weights")
    """Penalty for pairs on which several judges disagree (standard deviation of their logits); off when absent."""
    uncertainty_form: Literal["weight", "margin"] = key("weight", LOSS, resume="fixed", folds="same", error="no")
    """weight: exp(-u/uncertainty), attenuates. margin: subtracts uncertainty·u from the logit, as published in
    words."""
    reward: str | None = key(None, SAMPLED, resume="fixed", folds="same", error="no", told="judge")
    """What ranks the steps of source: steps: "world", a picture statistic, or a plug-in."""
    candidates: int = key(4, SAMPLED, resume="fixed", folds="same", error="no", low=2)
    """Next steps that are ranked at each step of sampling."""
    reward_gap: float = key(0.3, SAMPLED, resume="fixed", folds="same", error="no", low=0, high=0.999)
    """Least difference of their softmax shares for two candidates to become a pair."""
    reward_temperature: float = key(1.0, SAMPLED, resume="fixed", folds="same", error="no", low=1e-9)
    """Divides the reward before the softmax: the difference of rewards that counts as a clear one."""
    sampling_steps: int = key(20, SAMPLED, resume="fixed", folds="same", error="no", low=1)
    """Steps of sampling in source: steps and source: samples."""
    first_sampling_step: int = key(5, SAMPLED, resume="fixed", folds="same", error="no", low=1)
    """First step of sampling from which pairs are taken."""
    sampling_guidance: float = key(5.0, SAMPLED, resume="fixed", folds="same", error="no", low=None)
    """Guidance while sampling."""
    refresh_steps: int = key(20, SAMPLED, resume="fixed", folds="same", error="no", low=1, unit="steps")
    """Optimiser steps between two rounds of sampling."""
    prompts_per_round: int = key(16, SAMPLED, resume="fixed", folds="same", error="no", low=1, unit="prompts")
    """Prompts sampled in a round."""
    ratio_clip: float | None = key(None, SAMPLED, resume="fixed", folds="same", error="no", low=1e-6, high=0.999)
    """Clip the likelihood ratio of a step at 1 ± this (SPO: 0.1); off when absent."""
    prompt_dropout: float = key(0.0, LOSS, resume="fixed", folds="same", error="value", low=0, high=1)
    """Share of draws that train without a prompt; shared by the pair."""

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
    """Pixels along one side; what the model was made for when absent."""
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
    compile: bool = key(False, MODEL, resume="fixed", folds="same", error="value")
    """Compile the networks with torch.compile: minutes at the start, faster steps."""

    reference: Literal["auto", "adapter-off", "copy", "offloaded", "precomputed"] = key(
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
    copy otherwise."""
    reference_draws: int | None = key(None, REFERENCE, resume="fixed", folds="same", error="draws", low=1)
    """Each pair has only so many draws, visited in turn and addressed by draw_seed; a new draw at every visit when
    absent."""
    draw_seed: int = key(0, REFERENCE, resume="fixed", folds="same", error="draws", low=0, high=SEEDS)
    """With reference_draws: seed of the draws, in place of the run's, so that runs of all seeds share them."""
    share_reference: bool = key(False, REFERENCE, resume="fixed", folds="same", error="no", told="nowhere")
    """Keep the reference's errors that a run computes beside the encoded pairs, for every run that visits the same
    draws."""

    seed: int = key(0, STEPS, resume="fixed", folds="same", error="draws", low=0, high=SEEDS, told="seed", first=True)
    """Of batches, draws, adapters and cross-fitting."""
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
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = key(
        "constant_with_warmup", STEPS, resume="fixed", folds="same", error="no", told="learning rate"
    )
    """How the learning rate goes on after the warm-up."""
    lr_warmup_steps: int = key(0, STEPS, resume="fixed", folds="same", error="no", low=0, unit="steps")
    """Optimiser steps in which the learning rate rises from 0."""
    adam_beta1: float = key(0.9, STEPS, resume="fixed", folds="same", error="no", low=0, high=0.999999)
    """Decay of AdamW's first moment."""
    adam_beta2: float = key(0.999, STEPS, resume="fixed", folds="same", error="no", low=0, high=0.999999)
    """Decay of AdamW's second moment."""
    adam_weight_decay: float = key(0.01, STEPS, resume="fixed", folds="same", error="no", low=0)
    """AdamW's weight decay."""
    adam_epsilon: float = key(1e-8, STEPS, resume="fixed", folds="same", error="no", low=0)
    """What AdamW adds to the root of the second moment."""
    max_grad_norm: float = key(1.0, STEPS, resume="fixed", folds="same", error="no", low=0)
    """Largest norm of a gradient; a larger one is clipped to it."""

    on_spike: Literal["ignore", "stop", "roll-back"] = key("ignore", SPIKES, resume="free", folds="same", error="no")
    """At a gradient far larger than before. stop: end with the pairs named. roll-back: go back to the last checkpoint
    and leave out the steps since. A loss or gradient that is not a number always stops, or rolls back."""
    spike_factor: float = key(10.0, SPIKES, resume="free", folds="same", error="no", low=1.001)
    """How many times the median gradient norm of the last steps counts as a spike."""

    processes: int = key(1, PROCESSES, resume="free", folds="same", error="rounding", low=1, told="nowhere")
    """Processes on this machine that share the work, one for each GPU. They take parts of the same batches: the result
    is that of one process, to rounding."""
    parallel: Literal["ddp", "fsdp2"] = key(
        "ddp", PROCESSES, resume="free", folds="same", error="rounding", told="nowhere"
    )
    """What each of several processes holds. ddp: all weights. fsdp2: a share of weights, gradients and optimiser, for
    models that do not fit."""

    held_out_votes: float = key(0.0, GUARD, resume="fixed", folds="same", error="no", low=0, high=0.9)
    """Share of the pairs with human votes kept for validation (prompts stay together)."""
    validation_steps: int = key(50, GUARD, resume="fixed", folds="same", error="no", low=1, unit="steps")
    """Optimiser steps between validations."""
    validation_draws: int = key(8, GUARD, resume="fixed", folds="same", error="no", low=1)
    """Draws per held-out pair."""
    early_stop: int | None = key(None, GUARD, resume="fixed", folds="reset", error="no", low=1, unit="validations")
    """Stop after this many validations without a lower cross-entropy, and keep the best model; off when absent."""

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
