"""Keys that cannot go together: one row per rule, with the reason and what to do instead."""

from dataclasses import fields

from palate.data.where import condition
from palate.errors import PalateError, did_you_mean
from palate.objectives.links import LINEAR_IN_LABEL, linear_in_label, make_link
from palate.objectives.losses import LOSSES, NEEDS_SHIFT, NEEDS_START
from palate.run.checks import (
    PAIRED,
    PER_IMAGE,
    SELF,
    UNVOTED,
    judges_of,
    moves,
    needs_reference,
    needs_start,
    other_draws,
    uses_judge,
    uses_reference,
)
from palate.run.config import TrainConfig
from palate.run.keys import default_of


def check(config: TrainConfig) -> TrainConfig:
    """The configuration, unchanged. Raises PalateError with the reason for the first contradiction."""
    _check_losses(config.losses)
    if not all(judges_of(config)):
        raise PalateError(f"judge: {config.judge!r} is no annotator_id; give one, or a list of them.")
    for wrong, reason in _contradictions(config):
        if wrong:
            raise PalateError(reason)
    for text in config.where or ():
        condition(text)
    if config.losses.get("preference"):
        make_link(config.link, config.link_parameter)
    return config


def _check_losses(losses: dict[str, float]) -> None:
    if not losses:
        raise PalateError("losses: give at least one with its weight, as in {preference: 1.0}.")
    for name, weight in losses.items():
        if name not in LOSSES:
            raise PalateError(f"losses: {name!r} is not one of {', '.join(LOSSES)}{did_you_mean(name, LOSSES)}")
        if not weight > 0:
            raise PalateError(f"losses: the weight of {name} is {weight!r}; give a number above 0, or leave it out.")


def _asks_for_a_judge(config: TrainConfig) -> str:
    if config.target != "human":
        return f"target {config.target!r}"
    return "madpo" if config.madpo is not None else "confidence"


def _changed(config: TrainConfig, start: str) -> list[str]:
    """The keys that begin like this and are not at their default."""
    mine = [field for field in fields(config) if field.name.startswith(start)]
    return [field.name for field in mine if getattr(config, field.name) != default_of(field)]


def _contradictions(config: TrainConfig) -> list[tuple[bool, str]]:
    """(whether the rule is broken, the reason and what to do instead); the first broken one is reported."""
    c, losses = config, set(config.losses)
    voted, paired = c.source not in UNVOTED, c.source in PAIRED
    settings, flips = (
        _changed(c, "adaptive_"),
        [key for key in _changed(c, "adaptive_flip_") if key != "adaptive_flip_ratio"],
    )
    offset = c.noise_offset > 0 or c.input_perturbation > 0
    per_image = ", ".join(sorted(PER_IMAGE))
    # One row per rule: its condition and its message. The formatter would spread each row over many lines.
    # fmt: off
    return [
        (voted and uses_judge(c) and not c.judge,
         f"{_asks_for_a_judge(c)} needs a judge: add 'judge: NAME' (`palate "
         "info DATASET` lists the annotators)."),
        (bool(c.judge) and not uses_judge(c),
         "a judge is given, but nothing uses it: "
         f"{f'source {c.source!r} takes no votes of judges' if not voted else 'target human takes human votes alone'}. "
         "Remove 'judge', or choose method mix, dedpo or judge."),
        (len(set(judges_of(c))) < len(judges_of(c)),
         f"judge: {', '.join(judges_of(c))} names one judge twice; its vote counts once."),
        (len(judges_of(c)) > 1 and SELF in judges_of(c),
         "judge: self changes at every step, so it cannot be put together with others; give it alone."),
        (c.contexts != "words" and c.correction != "context" and c.target != "auto",
         "contexts belong to correction: context and target: auto; add one of them, or remove contexts."),
        (isinstance(c.question, dict) and not sum(c.question.values()) > 0,
         "question: give at least one question a weight above 0, as in {alignment: 0.5, aesthetics: 0.5}."),
        (c.question != "overall" and not voted,
         f"question names votes, and source {c.source!r} takes none; remove it."),
        (c.question_rule != "weights" and not isinstance(c.question, dict),
         f"question_rule: {c.question_rule} puts several questions together; name them with weights in question."),
        (c.question_rule != "weights" and c.target != "human",
         f"question_rule: {c.question_rule} decides by the votes themselves. With target {c.target!r} that is "
         "biased: the majority of noisy debiased targets is pulled toward one half or turned around, and keeping pairs "
         "by their votes selects by the outcome. Use question_rule: weights, or target: human."),
        (isinstance(c.question, dict) and c.judge == SELF,
         "judge: self is one model, which cannot answer several questions apart; name one question, or another judge."),
        (c.reliability != "equal" and (c.source != "pairs" or c.target != "human" or "preference" not in losses),
         f"reliability: {c.reliability} weighs each person's votes by what the model thinks of them, "
         "which is not linear in the label: debiased targets do not stay unbiased in it, and a judge is no person. Use "
         "source: pairs and target: human with losses: preference."),
        (c.reliability != "equal" and (c.label_smoothing > 0 or c.flip_rate > 0 or c.target_radius > 0 or c.swap
         or c.ramp or c.link == "mixture"),
         f"reliability: {c.reliability} says how often votes are wrong; label_smoothing, flip_rate, "
         "target_radius, swap and link: mixture assume something else of the same. Remove them."),
        (c.reliability != "equal" and not linear_in_label(c.link, c.link_parameter),
         f"reliability: {c.reliability} makes soft targets, and link {c.link!r} is not linear in its label; use one of "
         f"{', '.join(sorted(LINEAR_IN_LABEL))}."),
        (c.reliability != "equal" and isinstance(c.question, dict),
         f"reliability: {c.reliability} has one rate per person, and people differ by question; name one question."),
        (c.reliability == "equal" and bool(_changed(c, "reliability_")),
         f"{', '.join(_changed(c, 'reliability_'))} belong to reliability: learned or audit."),
        (c.reliability == "audit" and (c.reliability_momentum != 0.1 or c.reliability_prior != 0),
         "reliability: audit takes its rates from the votes alone; reliability_momentum and "
         "reliability_prior belong to learned."),
        (c.judges_together == "majority" and len(judges_of(c)) < 2,
         "judges_together: majority counts the votes of several judges: give judge a list of them."),
        (c.judges_together == "majority" and (c.correction != "none" or c.target == "auto"),
         "judges_together: majority leaves one vote of all judges, without their scores to correct; set correction: "
         "none, or judges_together: mean."),
        (c.covariates != "all" and c.correction not in ("covariates", "context"),
         f"covariates belong to correction: covariates, not to {c.correction!r}."),
        (c.propensity != "given" and c.target not in ("dedpo", "auto"),
         f"propensity: {c.propensity} is what target 'dedpo' divides by, and target {c.target!r} does "
         "not. Remove it, or use method dedpo (with power: 0 for human votes alone, weighted)."),
        (c.ramp and c.power != 1.0,
         "ramp and power are two ways between the judge and the human votes, the first of them biased; give one."),
        (c.target != "dedpo" and (c.power != 1.0 or c.ramp),
         f"power and ramp belong to target 'dedpo', not to {c.target!r}."),
        (c.residual != 1 and (c.target != "dedpo" or c.ramp),
         "residual keeps a fixed share of the residual of target 'dedpo', which ramp lets grow; give one of them, "
         "with target: dedpo."),
        (c.residual != 1 and c.judge == SELF and c.self_judge == "online",
         "residual acts on votes that are there before training; use self_judge: cross-fitted, or another judge."),
        (c.label_smoothing > 0 and c.flip_rate > 0,
         "label_smoothing and flip_rate assume opposite things of the same error; give one of them."),
        (c.judge == SELF and c.target == "auto",
         "target: auto needs votes that exist before training; with judge: self use method self-training-crossfit."),
        (c.judge == SELF and c.target not in ("dedpo", "mix", "judge"),
         "judge: self needs a target that uses a judge; use method self-training."),
        (c.judge == SELF and c.correction != "none",
         "the model's own votes change at every step, so they cannot be corrected beforehand; set correction: "
         "none."),
        (c.judge == SELF and c.self_judge == "online" and (c.swap or c.label_smoothing > 0 or c.flip_rate > 0),
         "swap, label_smoothing and flip_rate act on votes that are there before training; use self_judge: "
         "cross-fitted."),
        (c.judge == SELF and c.power == "auto",
         "power: auto needs votes that are there before training; give a number with judge: self."),
        (c.judge == SELF and c.self_judge == "online" and c.madpo is not None,
         "madpo needs a judge's votes before training; use self_judge: cross-fitted, or another judge."),
        (c.source in UNVOTED and (c.target != "human" or c.label_smoothing > 0 or c.flip_rate > 0
         or c.uncertainty is not None),
         f"source {c.source!r} makes its own preferences; target, label_smoothing, flip_rate and uncertainty have "
         "nothing to act on there."),
        (c.source in ("images", "lists") and c.target != "human",
         f"source {c.source!r} is made of human votes; set target: human."),
        (c.source != "pairs" and (c.label_smoothing > 0 or c.flip_rate > 0),
         "label_smoothing and flip_rate correct votes on pairs; set source: pairs."),
        (c.swap and c.source not in ("pairs", "images"),
         f"swap turns votes around, and source {c.source!r} has none that could be; use source: pairs."),
        ((c.link != "sigmoid" or c.link_parameter is not None) and "preference" not in losses,
         f"link belongs to the preference loss, and losses are {', '.join(c.losses)}; remove link, or add "
         "preference."),
        (c.target in ("dedpo", "auto") and bool(losses & {"ranking", "rankdpo", "dspo-sdxl"}),
         f"losses: {', '.join(sorted(losses & {'ranking', 'rankdpo', 'dspo-sdxl'}))} is not linear in the label, "
         "so debiased targets do not stay unbiased in it; use preference."),
        (c.target in ("dedpo", "auto") and "preference" in losses and not linear_in_label(c.link, c.link_parameter),
         f"link {c.link!r} is not linear in its label, so debiased targets do not stay unbiased in it; use one of "
         f"{', '.join(sorted(LINEAR_IN_LABEL))}."),
        (c.alpha_factor != 0.9999 and (c.link != "alpha-dpo" or c.link_parameter is not None),
         "alpha_factor is that of the moving alpha: it needs link: alpha-dpo without a link_parameter."),
        (c.target_radius > 0 and ("preference" not in losses or not voted),
         "target_radius looks for the worst share of votes on a pair; it needs votes and losses: preference."),
        (c.target_radius > 0 and (c.target == "dedpo" or c.flip_rate > 0),
         "target_radius is not linear in the label, so debiased targets do not stay unbiased in it, and it has no "
         "meaning for those outside [0, 1]. Remove target_radius, or use target: mix without flip_rate."),
        (c.target_radius > 0 and not linear_in_label(c.link, c.link_parameter),
         f"target_radius compares the losses of both sides, and link {c.link!r} is not linear in its label; use one "
         f"of {', '.join(sorted(LINEAR_IN_LABEL))}."),
        (c.ratio_clip is not None and c.source != "steps",
         "ratio_clip clips the likelihood ratio of sampling steps; it needs source: steps."),
        (c.source == "images" and not losses <= PER_IMAGE,
         f"single images have no pair to compare; losses that they have: {per_image}."),
        ("kto" in losses and c.source != "images",
         "kto takes single images; set source: images (pairs are taken apart into images there)."),
        ("single" in losses and c.source != "images",
         "single takes single images; set source: images (pairs are taken apart into images there)."),
        ("nft" in losses and c.source not in ("images", "pairs"),
         f"nft learns from images that people judged, and source {c.source!r} has none; use source: images or pairs."),
        (bool(losses & NEEDS_START) and c.region is not None,
         f"{' and '.join(sorted(losses & NEEDS_START))} compare whole predictions; remove region."),
        (losses == {"anchor"},
         "losses: anchor alone holds the model where it starts; add the loss that it restrains."),
        (bool(_changed(c, "nft_")) and "nft" not in losses,
         f"{', '.join(_changed(c, 'nft_'))} belongs to losses: nft."),
        (bool(_changed(c, "kto_")) and "kto" not in losses,
         f"{', '.join(_changed(c, 'kto_'))} belongs to losses: kto."),
        (c.confidence is not None and c.source != "images",
         "confidence weighs single images by a judge's scores of them; set source: images."),
        (c.confidence is not None and (len(judges_of(c)) > 1 or c.judge == SELF),
         "confidence takes the scores of one judge, whose scale is its own; give one annotator_id."),
        (c.timestep_weight == "balanced" and (not paired or c.trains == "classifier"),
         "timestep_weight: balanced measures how the margins of pairs of images spread, and there are none here; use "
         "linear, or source: pairs."),
        (bool(losses & {"ranking", "rankdpo"}) and c.source not in ("lists", "pairs"),
         "ranking losses compare the images of a list; set source: lists."),
        (c.source == "lists" and not losses <= {"ranking", "rankdpo"},
         "ranked lists have more than two images; use losses: {ranking: 1.0} or {rankdpo: 1.0}."),
        (c.source == "teacher" and losses != {"self-npo"},
         "source: teacher gives a regression target, not a preference; use losses: {self-npo: 1.0}."),
        ("self-npo" in losses and c.source != "teacher",
         "losses: self-npo regresses on a teacher; set source: teacher."),
        (c.source == "steps" and not c.reward,
         "source: steps ranks what the model samples: give 'reward: world', a picture statistic or a plug-in."),
        (bool(c.reward) and c.source != "steps",
         "reward ranks sampling steps; it needs source: steps."),
        (c.source == "steps" and losses != {"preference"},
         "the steps of sampling have a likelihood, not an image error; use losses: {preference: 1.0}."),
        (c.source == "steps" and c.first_sampling_step >= c.sampling_steps,
         "first_sampling_step must lie before sampling_steps."),
        (c.region is not None and c.source not in ("pairs", "samples"),
         f"region compares two images where they differ; source {c.source!r} has no such two."),
        (c.other_prompt != "another" and c.source not in ("prompt-mismatch", "perturbed"),
         "other_prompt is the wrong prompt of source: prompt-mismatch and perturbed; add one of them."),
        (c.source in ("prompt-mismatch", "perturbed") and c.prompt_dropout > 0,
         f"source: {c.source} compares prompts, and prompt_dropout takes the right one away. Remove it."),
        (c.source == "perturbed" and not losses <= {"preference", "anchor"},
         "source: perturbed has predictions as regression targets, which suit a preference alone; use losses: "
         "{preference: 1.0}."),
        (c.source == "perturbed" and c.safeguard is not None,
         "source: perturbed starts where the preferred side has no gradient, as its target is the reference's own "
         "prediction; the safeguard would hold the other side back, and nothing would be learned. Remove safeguard."),
        (c.noise != "random" and c.source in ("teacher", "steps", "prompt-mismatch", "perturbed"),
         f"source {c.source!r} makes its own noisy images; noise: {c.noise} cannot apply."),
        (offset and (c.noise != "random" or c.source in ("teacher", "steps")),
         "noise_offset and input_perturbation change random noise; use noise: random, and a source that noises "
         "images."),
        (c.lr_num_cycles != 1 and c.lr_scheduler != "cosine_with_restarts",
         "lr_num_cycles belongs to lr_scheduler: cosine_with_restarts."),
        (c.lr_power != 1 and c.lr_scheduler != "polynomial",
         "lr_power belongs to lr_scheduler: polynomial."),
        (c.trains == "classifier" and not losses <= {"preference", "ranking"},
         "the classifier has no denoising error; it learns by losses: {preference: 1.0} or {ranking: 1.0}."),
        (c.trains == "classifier" and (c.safeguard is not None or c.region is not None or c.noise != "random"),
         "safeguard, region and inversion act on denoising errors, which the classifier has none of."),
        (c.trains == "classifier" and c.judge == SELF,
         "the classifier cannot be its own judge; choose another one."),
        (c.trains == "classifier" and c.lora is not None,
         "the classifier is small and trained whole; remove lora."),
        (c.trains == "classifier" and c.source in ("teacher", "steps"),
         f"source {c.source!r} trains a denoiser, not a classifier."),
        (c.share_reference and not uses_reference(c),
         "share_reference: this objective has no reference, so there are no reference errors to share. Remove it."),
        (c.share_reference and (c.source != "pairs" or c.noise != "random" or c.region is not None or offset),
         "share_reference: reference errors can be shared where they depend on the pair and its draw alone; not "
         "with another source, inversion, region, noise_offset or input_perturbation."),
        (c.share_reference and bool(losses & NEEDS_SHIFT),
         f"share_reference: losses: {', '.join(sorted(losses & NEEDS_SHIFT))} needs the reference's predictions, and "
         "only errors are shared. Remove it."),
        (c.share_reference and moves(c),
         f"reference: {c.reference} moves, so its errors belong to one step of one run and cannot be shared. Remove "
         "share_reference."),
        (moves(c) and not uses_reference(c),
         f"reference: {c.reference} follows the policy, and none of the losses compares with it. Remove it."),
        (moves(c) and c.source == "samples",
         f"source: samples takes its samples once, from where the run starts, and reference: {c.reference} moves away "
         "from there. Use start_from for the next round."),
        (c.reference == "round" and c.reference_steps is None and c.held_out_votes == 0,
         "reference: round needs to know when: add reference_steps: 200, or held_out_votes: 0.1 to let held-out votes "
         "decide."),
        (c.reference != "ema" and bool(_changed(c, "reference_decay") + _changed(c, "reference_warmup")),
         "reference_decay and reference_warmup say how an average follows; they belong to reference: ema."),
        (c.reference_steps is not None and not moves(c),
         "reference_steps says how often a reference moves; add reference: ema or round."),
        (c.reference_warmup != "linear" and bool(_changed(c, "reference_rise") + _changed(c, "reference_wait")),
         "reference_rise and reference_wait belong to reference_warmup: linear."),
        (moves(c) and c.weight_dtype != "fp32" and c.lora is None and not needs_start(c),
         f"weight_dtype: {c.weight_dtype} holds frozen weights, and with a moving reference and no adapters there are "
         "none. Remove it."),
        (c.start_from is not None and (c.share_reference or c.trains == "classifier"),
         "start_from changes the denoiser and its reference; it goes neither with share_reference nor with "
         "trains: classifier."),
        (c.reference == "adapter-off" and c.lora is None,
         "reference: adapter-off needs adapters: add lora, or use reference: copy."),
        (c.reference != "auto" and not needs_reference(c),
         f"reference: {c.reference}, but nothing in this objective compares with a reference. Remove it."),
        (c.reference == "precomputed" and c.reference_draws is None,
         "reference: precomputed needs reference_draws: the number that was given to `palate encode CONFIG "
         "--reference-draws`."),
        (c.reference == "precomputed" and other_draws(c) is not None,
         "reference: precomputed has errors at the draws of voted pairs alone, and this configuration has "
         f"{other_draws(c)}. Use another reference."),
        (c.reference == "precomputed" and c.share_reference,
         "share_reference and reference: precomputed both say where the reference's errors are kept; give one."),
        (c.reference_draws is not None and c.source != "pairs",
         f"reference_draws limits the draws of voted pairs, and source is {c.source!r}. Remove it."),
        (c.draw_seed != 0 and c.reference_draws is None,
         "draw_seed addresses draws that are limited in number; add reference_draws."),
        (c.weight_dtype != "fp32" and c.weight_dtype != c.mixed_precision,
         f"weight_dtype: {c.weight_dtype} needs the same arithmetic: set mixed_precision: {c.weight_dtype}."),
        (c.weight_dtype != "fp32" and c.start_from is not None and c.lora is not None,
         "weight_dtype: with start_from adapters are merged into the base weights at the end, which have to be "
         "held in fp32 then. Remove weight_dtype."),
        (c.weight_dtype != "fp32" and c.source in ("samples", "steps"),
         f"weight_dtype: {c.weight_dtype} is made for training's own arithmetic, and source: {c.source} samples "
         "with the model in fp32. Remove weight_dtype."),
        (c.parallel == "fsdp2" and (c.weight_dtype != "fp32" or c.compile or c.optimizer != "adamw"
         or c.reference == "offloaded"),
         "parallel: fsdp2 keeps fp32 weights in shards; weight_dtype, compile, other optimisers than adamw and "
         "reference: offloaded are not made for those. Remove them, or use parallel: ddp."),
        (c.compile and (c.adaptive or c.reference == "offloaded" or moves(c)),
         "compile translates a network with its weights where they are; adaptive, a reference that moves and "
         "reference: offloaded put others in their place at each step. Remove compile."),
        (c.ema_decay is not None and c.early_stop is not None,
         "ema_decay and early_stop both choose the weights that are saved; give one."),
        (c.safeguard is None and c.safeguard_mode != "pair",
         f"safeguard_mode: {c.safeguard_mode} needs the safeguard's mu: add 'safeguard: 0.9' (0 for the bound "
         "itself)."),
        (c.safeguard is not None and not paired,
         "the safeguard protects one image of a pair from the other; this source has no pairs."),
        (c.safeguard is not None and not losses & {"preference", "dspo-sd15", "dspo-sdxl", "mapo"},
         "the safeguard acts on a pair's preference; none of the losses has one."),
        (c.adaptive and (c.source != "pairs" or not voted),
         "adaptive weighs human votes on pairs; this source has none."),
        (c.adaptive and "preference" not in losses,
         "adaptive takes its suspicion from the preference logit; add losses: preference."),
        (c.adaptive and c.train_batch_size < 2,
         "adaptive normalises margins over a batch, which needs at least two pairs."),
        (bool(settings) and not c.adaptive,
         f"{', '.join(settings)} belong to adaptive: true."),
        (bool(flips) and c.adaptive_flip_ratio == 0,
         f"{', '.join(flips)} say which votes are turned around, and none are: add adaptive_flip_ratio: 0.1."),
        (c.adaptive_flip_ratio > 0 and c.adaptive_flip_threshold >= 1 and c.adaptive_divide == "no",
         "adaptive_flip_ratio: the metric stays below 1, so adaptive_flip_threshold: 1 turns no vote around; use for "
         "example 0.3."),
        (c.adaptive_flip_ratio > 0 and c.target == "dedpo",
         "adaptive_flip_ratio turns votes around by what the model thinks of them, which is not linear in the label: "
         "debiased targets do not stay unbiased in it."),
        (c.adaptive_sign == "consistent" and c.link != "ipo",
         "adaptive_sign chooses between two forms for link: ipo; the other links have one."),
        ((c.amapo or c.madpo is not None or c.uncertainty is not None) and (c.source != "pairs"
         or "preference" not in losses),
         "amapo, madpo and uncertainty weigh preferences on pairs; use source: pairs with losses: preference."),
        (c.early_stop is not None and c.held_out_votes == 0,
         "early_stop needs votes to validate on: add held_out_votes: 0.1."),
        (c.max_drift is not None and (c.trains == "classifier" or c.source != "pairs"),
         "max_drift compares denoising errors on held-out pairs with the base's, and "
         f"{'a classifier has none' if c.trains == 'classifier' else f'source {c.source!r} has no such pairs'}. "
         "Remove it, and limit max_train_steps."),
        (c.max_drift is not None and c.held_out_votes == 0,
         "max_drift is measured on held-out pairs: add held_out_votes: 0.1."),
        (c.max_drift is not None and c.ema_decay is not None,
         "max_drift measures the weights in training, and ema_decay saves an average of them, which moved less; give "
         "one."),
        (c.held_out_votes > 0 and c.source != "pairs",
         "held_out_votes validates on pairs with votes; this source has none."),
        (c.labelled_per_batch is not None and c.batches == "uniform",
         "labelled_per_batch is for stratified batches; remove it, or batches: uniform."),
        (c.labelled_per_batch is not None and not 0 < c.labelled_per_batch < c.train_batch_size,
         f"labelled_per_batch: {c.labelled_per_batch} must leave room in a batch of {c.train_batch_size}."),
        (c.processes > c.train_batch_size,
         f"processes: {c.processes} share each batch, and train_batch_size is {c.train_batch_size}, all of them "
         "together; give every process at least one row."),
        (c.parallel == "fsdp2" and c.safeguard_mode == "exact",
         "parallel: fsdp2 frees weights after a backward pass, and safeguard_mode: exact takes two through "
         "one graph. Use parallel: ddp, or safeguard_mode: pair."),
        (c.parallel == "fsdp2" and c.mixed_precision == "fp16",
         "parallel: fsdp2 has no loss scaling, which fp16 needs. Use mixed_precision: bf16, or parallel: ddp."),
        (c.leave_out_fold is not None and not (len(c.leave_out_fold) == 2
         and 0 <= c.leave_out_fold[0] < c.leave_out_fold[1]),
         "leave_out_fold is [k, K] with 0 <= k < K."),
    ]
    # fmt: on
