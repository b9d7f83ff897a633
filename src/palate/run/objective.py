"""The first half of the keys of a training run: model and data, the method, the votes, and what is minimised.

config.py has the other half: how it is trained.
"""

from dataclasses import dataclass
from typing import Literal

from palate.run.keys import LOSS, METHOD, REQUIRED, RUN, SAMPLED, VOTES, key


@dataclass
class ObjectiveConfig:
    """What is trained, on which votes, and what is minimised."""

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
    """Copy of the base model's weights to read, as in `*.fp16.safetensors`; not needed for a part that has only one
    copy. Always held in fp32."""
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

    source: Literal[
        "pairs", "images", "lists", "mismatch", "prompt-mismatch", "perturbed", "samples", "teacher", "steps"
    ] = key("pairs", VOTES, resume="fixed", folds="same", error="refused", told="target")
    """What a step compares. pairs: pairs with votes. images: single images, liked or not. lists: ranked lists.
    mismatch: a preferred image against one of another prompt (SUDO). prompt-mismatch: an image under its own and under
    a wrong prompt (TPO). perturbed: the reference's predictions under the two (DDSPO). samples: a preferred image
    against a sample of the reference (SPIN). teacher: an image against the reference's unconditional view of it
    (Self-NPO). steps: two next steps of the model's own sampling, ranked by a reward (SPO, TailorPO)."""
    other_prompt: Literal["another", "words"] = key("another", VOTES, resume="fixed", folds="same", error="no")
    """The wrong prompt in source: prompt-mismatch and perturbed. another: that of another row. words: its own without
    40 to 70 % of its words."""
    target: Literal["human", "mix", "dedpo", "judge", "auto"] = key(
        "human", VOTES, resume="fixed", folds="reset", error="no", told="target"
    )
    """human: human votes alone. mix: human votes, and the judge's raw votes where there are none. dedpo: the judge's
    votes everywhere, debiased by the human ones. judge: the judge's votes alone. auto: human, or
    dedpo with the correction, residual and power of least risk for these votes."""
    judge: str | tuple[str, ...] | None = key(
        None, VOTES, resume="fixed", folds="reset", error="no", told="judge", first=True
    )
    """annotator_id of the judge whose votes are used, or a list of several that count together; "self" is the model in
    training."""
    judges_together: Literal["mean", "majority"] = key("mean", VOTES, resume="fixed", folds="same", error="no")
    """How several judges count together. mean: the mean of their logits. majority: 1 where more of them prefer image 0,
    0 where fewer do, 1/2 in between (BalancedDPO)."""
    hard_votes: bool = key(False, VOTES, resume="fixed", folds="same", error="no", told="target")
    """Take the judge's choice (0, 1) instead of its probability."""
    correction: Literal["covariates", "context", "calibrate", "none"] = key(
        "covariates", VOTES, resume="fixed", folds="same", error="no", told="correction of the judge"
    )
    """Correct the judge on the human votes first, cross-fitted: on its score and picture statistics, on
    both for each kind of prompt apart, on its score alone, or not at all. Only for targets that use a judge."""
    covariates: Literal["all", "statistics", "embeddings", "generators", "rubric"] = key(
        "all", VOTES, resume="fixed", folds="same", error="no", told="correction of the judge"
    )
    """The covariates of correction: covariates (or context) beside the judge: picture statistics, embeddings of the
    pictures (stored in the dataset by judges), which models made the two pictures, a judge's answers to a rubric, or
    all that exist."""
    propensity: Literal["given", "estimated", "density-ratio"] = key(
        "given", VOTES, resume="fixed", folds="reset", error="no", told="target"
    )
    """With what probability pairs got a human vote, by which target: dedpo divides. given: as stored, and the labelled
    share where nothing is. estimated: where nothing is stored, from what is seen of the pairs (for pairs that people
    picked). density-ratio: people's pairs are another source than the judge's, and only correct the judge there."""
    contexts: Literal["words", "group_id"] = key("words", VOTES, resume="fixed", folds="same", error="no")
    """The kinds of prompts of correction: context and target: auto: found by the prompts' words, or given by the pairs'
    group_id."""
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
    """Conservative DPO: this share of the votes is assumed wrong, and the targets are smoothed by it."""
    flip_rate: float = key(0.0, VOTES, resume="fixed", folds="reset", error="no", low=0, high=0.499, told="weights")
    """Robust DPO: corrects for votes that are known to be wrong at this rate; targets leave [0, 1]."""
    target_radius: float = key(0.0, VOTES, resume="fixed", folds="reset", error="no", low=0, high=100, told="weights")
    """DPO-PRO: learn the worst share of votes within this chi-square radius of the one given; doubtful pairs then pull
    less, hard votes as before. 0 is off."""
    swap: bool = key(False, VOTES, resume="fixed", folds="reset", error="no", told="target")
    """Diffusion-NPO: train towards the image that was not preferred; the result is a negative model for sampling."""
    where: tuple[str, ...] | None = key(None, VOTES, resume="fixed", folds="same", error="no")
    """Train on the pairs alone that fulfil all of these conditions, such as `generator_0 contains dreamlike`, `prompt
    lacks text`, `group_id is 7`, `propensity >= 0.1`."""
    max_train_samples: int | None = key(None, VOTES, resume="fixed", folds="same", error="no", low=1, unit="pairs")
    """Train on only this many pairs, chosen at random by the seed; for a first look."""
    question: str | dict[str, float] = key(
        "overall", VOTES, resume="fixed", folds="same", error="no", low=0, told="question"
    )
    """The question whose votes are used (alignment, aesthetics, any name), or several with their weights."""
    question_rule: Literal["weights", "majority", "pareto"] = key(
        "weights", VOTES, resume="fixed", folds="same", error="no", told="question"
    )
    """How several questions become one target. weights: the weighted mean. majority: what more of them prefer. pareto:
    only pairs that one image wins on a question and loses on none. The last two are for target: human."""
    reliability: Literal["equal", "learned", "audit"] = key(
        "equal", VOTES, resume="fixed", folds="same", error="no", told="weights"
    )
    """How often each person's vote is right. equal: votes are taken as they are. learned: a rate per person, by
    expectation maximisation on the model's own logits (RE-PO). audit: Dawid and Skene's, from the votes alone."""
    reliability_start: float = key(0.9, VOTES, resume="fixed", folds="same", error="no", low=0.5, high=0.9999)
    """The rate of everybody at the start; with audit, of people with too few votes on shared pairs."""
    reliability_momentum: float = key(0.1, VOTES, resume="fixed", folds="same", error="no", low=0, high=1)
    """With learned: how far a rate moves towards the mean of a micro-batch."""
    reliability_prior: float = key(0.0, VOTES, resume="fixed", folds="same", error="no", low=0)
    """With learned: as many votes at the first rate are added to a person's in each micro-batch."""
    human_annotators: tuple[str, ...] | None = key(
        None, VOTES, resume="fixed", folds="same", error="no", told="human votes of"
    )
    """Count only these people's votes as human; all of them when absent."""
    human_votes: int | None = key(None, VOTES, resume="fixed", folds="same", error="no", low=1, unit="pairs")
    """Use the human votes of only this many pairs, chosen at random, to see how good fewer labels would have been."""
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
    """What is minimised, with weights: preference, winner (SFT), mapo, dspo-sd15, dspo-sdxl, kto, single, nft, anchor,
    ranking, rankdpo, self-npo."""
    beta: float = key(5000.0, LOSS, resume="fixed", folds="same", error="no", low=0, told="beta", first=True)
    """Strength of the pull toward the reference: z = (beta/2)·[(e_ref,0 - e_0) - (e_ref,1 - e_1)], errors averaged over
    C, H, W."""
    link: Literal[
        "sigmoid", "ipo", "hinge", "dmpo", "alpha-dpo", "holder", "squared-sigmoid", "smoothed", "linear", "poly",
        "gce", "mixture",
    ] = key("sigmoid", LOSS, resume="fixed", folds="same", error="no", told="loss")  # fmt: skip
    """From logit and target to loss."""
    link_parameter: float | None = key(None, LOSS, resume="fixed", folds="same", error="no", low=None)
    """The link's one parameter (ipo: margin, dmpo, alpha-dpo and poly: alpha, holder: gamma, smoothed: gain, linear and
    mixture: eta, gce: q); its default when absent."""
    alpha_factor: float = key(0.9999, LOSS, resume="fixed", folds="same", error="no", low=0, high=10)
    """With link: alpha-dpo and no link_parameter: its alpha is this times the batch's mean confidence in the votes."""
    dspo_beta: float = key(0.001, LOSS, resume="fixed", folds="same", error="no", low=None)
    """Weight of the score term in dspo-sd15."""
    mapo_beta: float = key(0.1, LOSS, resume="fixed", folds="same", error="no", low=None)
    """Weight of MaPO's odds term."""
    kto_utility: Literal["sigmoid", "loss-averse", "risk-seeking-1", "risk-seeking-2", "risk-seeking-3"] = key(
        "sigmoid", LOSS, resume="fixed", folds="same", error="no"
    )
    """Diffusion-KTO's utility."""
    kto_offset: Literal["mean", "balanced"] = key("mean", LOSS, resume="fixed", folds="same", error="no")
    """What an image's gain is compared with. mean: the batch's mean gain, not below 0. balanced: the mean of liked and
    of disliked images, each one half."""
    kto_liked: float = key(1.0, LOSS, resume="fixed", folds="same", error="no", low=0)
    """Diffusion-KTO's factor on the loss of images that are liked."""
    kto_disliked: float = key(1.0, LOSS, resume="fixed", folds="same", error="no", low=0)
    """Its factor on the loss of the others."""
    nft_beta: float = key(1.0, LOSS, resume="fixed", folds="same", error="no", low=1e-3, high=100)
    """DiffusionNFT's beta: how far its two branches reach from the reference; no beta of ours."""
    nft_kl: float = key(2e-5, LOSS, resume="fixed", folds="same", error="no", low=0)
    """Weight of the mean square of the prediction's change in nft; the published 1e-4 stands beside 5 times the
    loss."""
    confidence: float | None = key(None, LOSS, resume="fixed", folds="same", error="no", low=0, told="weights")
    """Single images weigh 1 + this times the distance of the judge's score from its median, in standard deviations; off
    when absent. Needs a judge with scores."""
    region: float | None = key(None, LOSS, resume="fixed", folds="same", error="refused", low=0, high=0.999)
    """RN-DPO: compare errors only where the two images differ by more than this share of their largest difference."""
    noise: Literal["random", "inversion", "renoise"] = key(
        "random", LOSS, resume="fixed", folds="same", error="refused"
    )
    """The noise of a draw: random and shared by a pair, or each image's own, by inversion with the current model
    (InPO), or by ReNoise inversion (SmPO)."""
    noise_offset: float = key(0.0, LOSS, resume="fixed", folds="same", error="refused", low=0)
    """Adds this times one normal number per channel to the noise of a draw, so that whole pictures get lighter and
    darker; it is shared by a pair."""
    input_perturbation: float = key(0.0, LOSS, resume="fixed", folds="same", error="refused", low=0)
    """Adds this times more noise to the network's input, and not to its target; it is shared by a pair."""
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
    """Sign of its margin with link: ipo; published adds the margin that the sigmoid form subtracts."""
    adaptive_memory: bool = key(False, LOSS, resume="fixed", folds="same", error="no")
    """Average the suspicion of a pair over its draws so far instead of taking each draw alone."""
    adaptive_rho: float = key(15.0, LOSS, resume="fixed", folds="same", error="no", low=0)
    """Adaptive-DPO's rho: what margins are multiplied by before the sigmoid that makes confidences of them."""
    adaptive_normalise: bool = key(True, LOSS, resume="fixed", folds="same", error="no")
    """Divide margins by their norm over the batch first; without it rho is the scale of a raw margin."""
    adaptive_divide: Literal["no", "mean-spread", "sum"] = key("no", LOSS, resume="fixed", folds="same", error="no")
    """Divide its metric by the batch's mean spread, or by the metric's sum over the batch."""
    adaptive_weight: Literal["linear", "quadratic", "sigmoid", "sqrt"] = key(
        "linear", LOSS, resume="fixed", folds="same", error="no"
    )
    """How its weight falls with the metric u. linear: 1/(k1·u + c). quadratic: 1/(k1·u² + c). sigmoid: 1/(exp(k1·u) +
    c). sqrt: 1/(exp(k1·√u) + c)."""
    adaptive_k1: float = key(10.0, LOSS, resume="fixed", folds="same", error="no", low=0)
    """k1 of that weight."""
    adaptive_c: float = key(1.0, LOSS, resume="fixed", folds="same", error="no", low=1e-6)
    """c of that weight."""
    adaptive_margin_form: Literal["quadratic", "linear"] = key(
        "quadratic", LOSS, resume="fixed", folds="same", error="no"
    )
    """Whether its margin falls with u² or with u."""
    adaptive_flip_ratio: float = key(0.0, LOSS, resume="fixed", folds="same", error="no", low=0, high=1)
    """Turn around at most this share of a batch's votes, those of the largest metric; 0 is none."""
    adaptive_flip_threshold: float = key(1.0, LOSS, resume="fixed", folds="same", error="no", low=0)
    """Only votes whose metric is above this are turned around; it stays below 1 unless it is divided."""
    adaptive_flip_metric: Literal["keep", "constant", "inverse"] = key(
        "keep", LOSS, resume="fixed", folds="same", error="no"
    )
    """The metric that weighs a vote which was turned around: as it was, adaptive_flip_constant, or 1 - u."""
    adaptive_flip_constant: float = key(0.8, LOSS, resume="fixed", folds="same", error="no", low=0)
    """The metric of turned votes with adaptive_flip_metric: constant."""
    adaptive_warmup_steps: int = key(0, LOSS, resume="fixed", folds="same", error="no", low=0, unit="steps")
    """Optimiser steps at the start of every pass over the rows in which no vote is suspected; 2 as published."""
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
    """The reward that ranks the steps of source: steps: "world", a picture statistic, or a plug-in."""
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
    timestep_weight: Literal["none", "linear", "balanced"] = key("none", LOSS, resume="fixed", folds="same", error="no")
    """How much a draw counts by its timestep. linear: t/(T - 1), more at more noise (DDSPO). balanced: a quarter of the
    timesteps counts the less the more its margins spread; mean 1."""
