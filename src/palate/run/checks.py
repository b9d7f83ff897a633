"""Which parts a configuration uses, and what it needs from a family of models."""

from palate.backbones.base import Backbone
from palate.errors import PalateError
from palate.objectives.losses import NEEDS_SHIFT, NEEDS_START, REFERENCE_FREE
from palate.run.config import TrainConfig

SELF = "self"  # the judge that is the model in training

PER_IMAGE = {"kto", "winner", "single", "nft", "anchor"}  # losses that single images can have
PAIRED = ("pairs", "mismatch", "prompt-mismatch", "perturbed", "samples", "steps")  # sources whose rows are two images
UNVOTED = (
    "mismatch",
    "prompt-mismatch",
    "perturbed",
    "samples",
    "teacher",
    "steps",
)  # sources that make their own preference


def check_family(config: TrainConfig, backbone: Backbone) -> None:
    """Raises PalateError when the method needs something that this family of models lacks: a noise schedule
    (alphas_cumprod), which flow matching does not have, or a UNet, for sampling in training and for a classifier's
    guidance."""
    needs_unet = {
        f"source: {config.source}": config.source in ("samples", "steps"),
        "trains: classifier": config.trains == "classifier",
    }
    needs_schedule = {
        f"source: {config.source}": config.source == "teacher", f"noise: {config.noise}": config.noise != "random",
    }  # fmt: skip
    for needs, missing, what in (
        (needs_unet, backbone.denoiser != "unet", "the UNet and the noise schedule of Stable Diffusion or SDXL"),
        (needs_schedule, backbone.is_flow, "a noise schedule, which models of flow matching do not have"),
    ):
        name = next((name for name, so in needs.items() if so), None)
        if name and missing:
            raise PalateError(
                f"{name} needs {what}, and {backbone.folder} is {backbone.family}. "
                "Choose a method that compares the pairs of the dataset at random noise (`palate methods`)."
            )


def uses_judge(config: TrainConfig) -> bool:
    """Whether anything in the objective asks for the votes of a judge."""
    asked = config.target != "human" or config.madpo is not None or config.confidence is not None
    return config.source not in UNVOTED and asked


def judges_of(config: TrainConfig) -> tuple[str, ...]:
    """The annotator_ids of the judges: none, one or several."""
    return (config.judge,) if isinstance(config.judge, str) else tuple(config.judge or ())


def judge_name(config: TrainConfig) -> str | None:
    """The joint name of the judges, for example `pickscore+aesthetic`; None without a judge."""
    return "+".join(judges_of(config)) or None


def uses_reference(config: TrainConfig) -> bool:
    """Whether anything in the objective compares with the reference."""
    return config.trains == "denoiser" and not set(config.losses) <= REFERENCE_FREE


def moves(config: TrainConfig) -> bool:
    """Whether the reference moves."""
    return config.reference in ("ema", "round")


def needs_reference(config: TrainConfig) -> bool:
    """Whether a run needs the reference network at all: its losses, its source, its own votes or its validation do."""
    return config.trains == "denoiser" and (uses_reference(config) or _compares_with_start(config))


def needs_start(config: TrainConfig) -> bool:
    """Whether a run needs the model that it started from beside the policy. A reference that stays is this model; where
    it moves, only own votes, validation and penalties on the change since the start still compare with it."""
    if not moves(config):
        return needs_reference(config)
    penalised = bool(set(config.losses) & NEEDS_START)
    return config.trains == "denoiser" and (penalised or _compares_with_start(config))


def _compares_with_start(config: TrainConfig) -> bool:
    return config.source in ("samples", "teacher") or config.judge == SELF or config.held_out_votes > 0


def other_draws(config: TrainConfig) -> str | None:
    """The key that compares with the reference at draws other than the loss's own on voted pairs, or needs more than
    its errors, in the configuration's words; None where errors at the pairs' own draws are enough."""
    c, losses = config, set(config.losses)
    found = {
        f"source: {c.source}": c.source != "pairs",
        f"noise: {c.noise}": c.noise != "random",
        "region": c.region is not None,
        "noise_offset": c.noise_offset > 0,
        "input_perturbation": c.input_perturbation > 0,
        f"losses: {', '.join(sorted(losses & NEEDS_SHIFT))} (it needs the reference's predictions)": bool(
            losses & NEEDS_SHIFT
        ),
        "judge: self": c.judge == SELF,
        "held_out_votes (validation has draws of its own)": c.held_out_votes > 0,
        "start_from (its reference is another one)": c.start_from is not None,
        f"reference: {c.reference} (its errors change at every move)": moves(c),
    }
    return next((name for name, so in found.items() if so), None)
