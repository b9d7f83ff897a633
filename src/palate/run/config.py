"""The configuration of a training run: every key, its type, unit and default. YAML files and flags fill the same
fields.

The keys compose: source x target x losses and link x weights and margins x safeguard. What cannot work together is
refused in checks.py, with the reason.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class LoraOptions:
    """Low-rank adapters; the reference is the model with the adapter switched off."""

    rank: int = 16
    alpha: float | None = None
    """Scale numerator; the rank when absent."""
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass
class TrainConfig:
    """Train a text-to-image diffusion model on the votes of a dataset.

    Interrupted? Run the same command again: it goes on from the newest checkpoint and ends where it would have ended.
    """

    pretrained_model_name_or_path: str
    """A diffusers pipeline folder, a .safetensors file of a whole model, a hub name, or "world" (the small pipeline
    inside the package)."""
    dataset: str
    """The dataset folder with pairs and votes."""
    output_dir: str
    """The run folder to write."""
    cache: str | None = None
    """Folder or URL (s3://, gs://, https:// and others of fsspec) where encoded pairs are kept; the dataset's own
    `cache` when absent."""
    revision: str | None = None
    """Revision of a hub model."""
    variant: str | None = None
    """Copy of the base model's weights to read, as in `*.fp16.safetensors`; a part that has one copy alone needs no
    word. Held in fp32 whatever it is."""
    vae: str | None = None
    """Another autoencoder of the same latent space in place of the base model's: a folder, a .safetensors file, or a
    hub name."""
    start_from: str | None = None
    """A finished run with the same base model: start, and take the reference, where it ended (the next round of
    SPIN)."""

    # The method: a preset for everything below that the file does not say itself
    method: str = "dpo"
    """A preset (`palate methods` lists them, `palate methods NAME` explains one): it sets the keys of its method; yours
    win."""
    recipe: Literal["none", "sd15", "sdxl"] = "none"
    """Also take the hyper-parameters that were published for this method and this model."""

    # Which votes, and what they are worth
    source: Literal["pairs", "images", "lists", "mismatch", "samples", "teacher", "steps"] = "pairs"
    """What a step compares. pairs: pairs with votes. images: single images, liked or not. lists: ranked lists.
    mismatch: a preferred image against one of another prompt (SUDO). samples: a preferred image against a sample of the
    reference (SPIN). teacher: an image against the reference's unconditional view of it (Self-NPO). steps: two next
    steps of the model's own sampling, ranked by a reward (SPO, TailorPO)."""
    target: Literal["human", "mix", "dedpo", "judge"] = "human"
    """human: human votes alone. mix: human votes, the judge's where there are none, as they are. dedpo: the judge's
    votes everywhere, debiased by the human ones. judge: the judge's votes alone."""
    judge: str | tuple[str, ...] | None = None
    """annotator_id of the judge whose votes are used, or a list of several that count together; "self" is the model in
    training."""
    hard_votes: bool = False
    """Take the judge's choice (0, 1) instead of its probability."""
    correction: Literal["covariates", "calibrate", "none"] = "covariates"
    """Correct the judge on the human votes first, cross-fitted: on its score and picture statistics, on its score
    alone, or not at all. Only for targets that use a judge."""
    covariates: Literal["all", "statistics", "embeddings"] = "all"
    """What correction: covariates looks at beside the judge: picture statistics, embeddings of the pictures (those that
    judges left in the dataset), or all that is there."""
    power: float | Literal["auto"] = 1.0
    """DeDPO's power kappa: 1 is DeDPO, 0 human votes alone, auto the estimate from the human votes."""
    residual: float = 1.0
    """With target: dedpo. Share of the human-minus-judge residual that is kept: less than 1 is less noisy, and biased
    toward the judge. Choose it by held-out votes."""
    ramp: bool = False
    """Doubly robust self-training: the correction of dedpo grows from 0 to 1 over the run. Biased until its end."""
    label_smoothing: float = 0.0
    """Conservative DPO: this share of the votes is taken to be wrong, and learned as such."""
    flip_rate: float = 0.0
    """Robust DPO: votes are known to be wrong at this rate, and corrected for it; targets leave [0, 1]."""
    swap: bool = False
    """Diffusion-NPO: train towards the image that was not preferred; the result is a negative model for sampling."""
    human_annotators: tuple[str, ...] | None = None
    """Count only these people's votes as human; all of them when absent."""
    human_votes: int | None = None
    """Use the human votes of only this many pairs, chosen at random: how far would fewer labels have come?"""
    leave_out_fold: tuple[int, int] | None = None
    """[k, K]: leave out the k-th of K parts of the pairs with human votes (prompts stay together)."""
    self_judge: Literal["online", "cross-fitted"] = "online"
    """With judge: self. online: the model as it is at each step. cross-fitted: models trained without a part of the
    votes."""
    self_draws: int = 4
    """Draws over which the model's own logit is averaged."""
    self_folds: int = 2
    """Parts of the votes for the cross-fitted form: as many models are trained first."""
    list_length: int = 4
    """Longest ranked list of a step; longer ones are split."""

    # The objective
    losses: dict[str, float] = field(default_factory=lambda: {"preference": 1.0})
    """What is minimised, with weights: preference, winner (SFT), mapo, dspo-sd15, dspo-sdxl, kto, ranking, rankdpo,
    self-npo."""
    beta: float = 5000.0
    """Strength of the pull toward the reference: z = (beta/2)·[(e_ref,0 - e_0) - (e_ref,1 - e_1)], errors averaged over
    C, H, W."""
    link: Literal["sigmoid", "ipo", "hinge", "dmpo", "alpha-dpo", "holder", "squared-sigmoid", "smoothed", "linear"] = (
        "sigmoid"
    )
    """From logit and target to loss."""
    link_parameter: float | None = None
    """The link's one parameter (ipo: margin, dmpo: alpha, alpha-dpo: alpha, holder: gamma, smoothed: gain); its default
    when absent."""
    dspo_beta: float = 0.001
    """Weight of the score term in dspo-sd15."""
    mapo_beta: float = 0.1
    """Weight of MaPO's odds term."""
    kto_utility: Literal["sigmoid", "loss-averse", "risk-seeking-1", "risk-seeking-2", "risk-seeking-3"] = "sigmoid"
    """Diffusion-KTO's utility."""
    region: float | None = None
    """RN-DPO: compare errors only where the two images differ by more than this share of their largest difference."""
    noise: Literal["random", "inversion", "renoise"] = "random"
    """The noise of a draw: random and shared by a pair, or each image's own, by inversion with the current model
    (InPO), or by ReNoise inversion (SmPO)."""
    inversion_steps: int = 5
    """Steps of an inversion."""
    safeguard: float | None = None
    """SDPO's mu in [0, 1], slack of the bound that keeps the preferred image from getting worse; off when absent."""
    safeguard_mode: Literal["pair", "batch", "published", "exact"] = "pair"
    """One factor per pair; one per batch; the same with the published epsilon; or one per step from the gradients of
    the parameters themselves (a second backward pass)."""
    adaptive: bool = False
    """Adaptive-DPO: weight human votes down where the model's snapshots suspect a minority vote."""
    adaptive_margin: Literal["published", "inside", "off"] = "published"
    """Where its margin acts: outside beta as published (numerically near 0), inside, or nowhere."""
    adaptive_sign: Literal["published", "consistent"] = "published"
    """Sign of its margin with link: ipo; published adds what the sigmoid form subtracts."""
    adaptive_memory: bool = False
    """Average the suspicion of a pair over its draws so far instead of taking each draw alone."""
    madpo: float | None = None
    """MADPO's temperature: pairs on which the judge sees a small difference weigh more; off when absent. Needs a
    judge."""
    amapo: bool = False
    """AMaPO: a margin for pairs on which the model lags behind the batch."""
    uncertainty: float | None = None
    """Penalty for pairs on which several judges disagree (standard deviation of their logits); off when absent."""
    uncertainty_form: Literal["weight", "margin"] = "weight"
    """weight: exp(-u/uncertainty), attenuates. margin: subtracts uncertainty·u from the logit, as published in
    words."""
    reward: str | None = None
    """What ranks the steps of source: steps: "world", a picture statistic, or a plug-in."""
    candidates: int = 4
    """Next steps that are ranked at each step of sampling."""
    reward_gap: float = 0.3
    """Least difference of their softmax shares for two candidates to become a pair."""
    reward_temperature: float = 1.0
    """Divides the reward before the softmax: the difference of rewards that counts as a clear one."""
    sampling_steps: int = 20
    """Steps of sampling in source: steps and source: samples."""
    first_sampling_step: int = 5
    """First step of sampling from which pairs are taken."""
    sampling_guidance: float = 5.0
    """Guidance while sampling."""
    refresh_steps: int = 20
    """Optimiser steps between two rounds of sampling."""
    prompts_per_round: int = 16
    """Prompts sampled in a round."""
    ratio_clip: float | None = None
    """Clip the likelihood ratio of a step at 1 ± this (SPO: 0.1); off when absent."""
    prompt_dropout: float = 0.0
    """Share of draws that train without a prompt; shared by the pair."""

    # The timesteps of flow matching (Stable Diffusion 3, FLUX, Sana)
    weighting_scheme: Literal["logit_normal", "none"] = "logit_normal"
    """How likely each timestep of a flow-matching model is: logit-normal, or uniform; then shifted as its scheduler
    says."""
    logit_mean: float = 0.0
    """Mean of the logit-normal distribution, as in diffusers' scripts: above 0 is less noise."""
    logit_std: float = 1.0
    """Its standard deviation."""

    # The model
    trains: Literal["denoiser", "classifier"] = "denoiser"
    """The denoiser itself, or a small preference classifier that guides it while sampling (PC-Diffusion)."""
    lora: LoraOptions | None = None
    """Train adapters ({rank: 16} in the file; then --lora.rank and its like are options); full fine-tuning when
    absent."""
    resolution: int | None = None
    """Pixels along one side; what the model was made for when absent."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time, the same
    gradients."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Type of the networks' arithmetic (autocast); errors and logits stay fp32."""
    weight_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Type in which frozen weights are held: the base model under LoRA, the reference's copy otherwise. The type of
    mixed_precision halves their memory and changes no result."""
    compile: bool = False
    """Compile the networks with torch.compile: minutes at the start, faster steps."""

    # The reference
    reference: Literal["auto", "adapter-off", "copy", "offloaded", "precomputed"] = "auto"
    """Where the reference comes from. adapter-off: the policy without its adapters. copy: a frozen copy. offloaded: a
    frozen copy in the CPU's memory. precomputed: errors that `palate encode` has computed. auto: adapter-off with LoRA,
    copy otherwise."""
    reference_draws: int | None = None
    """Each pair has only so many draws, visited in turn and addressed by draw_seed; a new draw at every visit when
    absent."""
    draw_seed: int = 0
    """With reference_draws: seed of the draws, in place of the run's, so that runs of all seeds share them."""

    # Optimisation
    seed: int = 0
    train_batch_size: int = 8
    """Pairs per forward pass."""
    labelled_per_batch: int | None = None
    """How many of them have a human vote; half when a method uses both kinds, at least one."""
    batches: Literal["stratified", "uniform"] = "stratified"
    """Fixed numbers of pairs with and without a human vote in every batch, or batches drawn from all pairs alike."""
    gradient_accumulation_steps: int = 1
    max_train_steps: int = 1000
    """Optimiser steps."""
    optimizer: Literal["adamw", "adamw-8bit", "adafactor"] = "adamw"
    """adamw-8bit (needs palate[8bit]) holds AdamW's moments in 8 bits; adafactor holds rows and columns of the second
    one."""
    ema_decay: float | None = None
    """Average the weights over the steps with this decay, and save the average as the model; off when absent."""
    learning_rate: float = 1e-5
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    lr_warmup_steps: int = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 0.01
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0

    # When training breaks
    on_spike: Literal["ignore", "stop", "roll-back"] = "ignore"
    """At a gradient far larger than before. stop: end with the pairs named. roll-back: go back to the last checkpoint
    and leave out the steps since. A loss or gradient that is not a number always stops, or rolls back."""
    spike_factor: float = 10.0
    """How many times the median gradient norm of the last steps counts as a spike."""

    # Several processes
    processes: int = 1
    """Processes on this machine that share the work, one for each GPU. They take parts of the same batches: the result
    is that of one process, to rounding."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """What each of several processes holds. ddp: all weights. fsdp2: a share of weights, gradients and optimiser, for
    models that do not fit."""

    # Over-fitting to few votes
    held_out_votes: float = 0.0
    """Share of the pairs with human votes kept for validation (prompts stay together)."""
    validation_steps: int = 50
    """Optimiser steps between validations."""
    validation_draws: int = 8
    """Draws per held-out pair."""
    early_stop: int | None = None
    """Stop after this many validations without a lower cross-entropy, and keep the best model; off when absent."""

    # Book-keeping
    checkpointing_steps: int = 200
    """Optimiser steps between complete states."""
    checkpoints_total_limit: int = 2
    """How many complete states are kept; older ones are deleted."""
    share_reference: bool = False
    """Keep the reference's errors beside the encoded pairs, for every run that visits the same draws."""
    report_to: Literal["tensorboard", "none"] = "tensorboard"
    """TensorBoard needs palate[trackers]; metrics.jsonl is always written."""

    def __post_init__(self) -> None:
        if isinstance(self.judge, list | tuple) and len(self.judge) == 1:
            self.judge = self.judge[0]
