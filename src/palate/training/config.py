"""The configuration of a training run: every key, its type, unit and default. YAML files and flags fill the same fields."""

import difflib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from palate.errors import PalateError
from palate.files import write_text


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
    """A diffusers pipeline folder, a hub name, or "world" (the small pipeline inside the package)."""
    dataset: str
    """The dataset folder with pairs and votes."""
    output_dir: str
    """The run folder to write."""
    revision: str | None = None
    """Revision of a hub model."""

    # Which votes, and what they are worth
    method: Literal["dpo", "mix", "dedpo", "judge"] = "dpo"
    """dpo: human votes alone. mix: human votes, the judge's where there are none, as they are. dedpo: the judge's votes
    everywhere, debiased by the human ones. judge: the judge's votes alone."""
    judge: str | None = None
    """annotator_id of the judge whose votes are used."""
    hard_votes: bool = False
    """Take the judge's choice (0, 1) instead of its probability."""
    correction: Literal["covariates", "calibrate", "none"] = "covariates"
    """Correct the judge on the human votes first, cross-fitted: on its score and picture statistics, on its score alone,
    or not at all. Only for methods that use a judge."""
    power: float | Literal["auto"] = 1.0
    """DeDPO's power kappa: 1 is DeDPO, 0 human votes alone, auto the estimate from the human votes."""
    human_annotators: tuple[str, ...] | None = None
    """Count only these people's votes as human; all of them when absent."""
    human_votes: int | None = None
    """Use the human votes of only this many pairs, chosen at random: how far would fewer labels have come?"""

    # The objective
    beta: float = 5000.0
    """Strength of the pull toward the reference: z = (beta/2)·[(e_ref,0 - e_0) - (e_ref,1 - e_1)], errors averaged over C, H, W."""
    link: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """From logit and target to loss."""
    safeguard: float | None = None
    """SDPO's mu in [0, 1], slack of the bound that keeps the preferred image from getting worse; off when absent."""
    safeguard_mode: Literal["pair", "batch"] = "pair"
    """One factor per pair, or one per batch as published."""
    adaptive: bool = False
    """Adaptive-DPO: weight human votes down where the model's snapshots suspect a minority vote."""
    adaptive_margin: Literal["published", "inside", "off"] = "published"
    """Where its margin acts: outside beta as published (numerically near 0), inside, or nowhere."""
    prompt_dropout: float = 0.0
    """Share of draws that train without a prompt; shared by the pair."""

    # The model
    lora: LoraOptions | None = None
    """Train adapters ({rank: 16} in the file; then --lora.rank and its like are options); full fine-tuning when absent."""
    resolution: int | None = None
    """Pixels along one side; what the model was made for when absent."""
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"

    # Optimisation
    seed: int = 0
    train_batch_size: int = 8
    """Pairs per forward pass."""
    labelled_per_batch: int | None = None
    """How many of them have a human vote; half when a method uses both kinds, at least one."""
    gradient_accumulation_steps: int = 1
    max_train_steps: int = 1000
    """Optimiser steps."""
    learning_rate: float = 1e-5
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    lr_warmup_steps: int = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 0.01
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0

    # Book-keeping
    checkpointing_steps: int = 200
    """Optimiser steps between complete states."""
    checkpoints_total_limit: int = 2
    """How many complete states are kept; older ones are deleted."""
    share_reference: bool = False
    """Keep the reference's errors beside the encoded pairs, for every run that visits the same draws."""
    report_to: Literal["tensorboard", "none"] = "tensorboard"
    """TensorBoard needs palate[trackers]; metrics.jsonl is always written."""


# What may differ when a run goes on: it changes where or how long, not what is computed at a step.
FREE_ON_RESUME = (
    "dataset",
    "output_dir",
    "max_train_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "report_to",
)


def load_config(source: "str | Path | dict | TrainConfig", **overrides: Any) -> TrainConfig:
    """A checked configuration from a YAML file, a dict or a TrainConfig, with single keys replaced.

    Raises PalateError for a key that does not exist (naming the nearest one), a missing key, or a value out of range.
    """
    if isinstance(source, TrainConfig):
        return check(replace(source, **_known(overrides, "overrides")))
    if isinstance(source, dict):
        values, name = source, "configuration"
    else:
        values, name = read_yaml(source), str(source)
    values = {**values, **overrides}
    values = _known(values, name)
    missing = [key for key in ("pretrained_model_name_or_path", "dataset", "output_dir") if not values.get(key)]
    if missing:
        raise PalateError(f"{name}: {', '.join(missing)} must be given.")
    try:
        return check(TrainConfig(**values))
    except (TypeError, ValueError) as error:
        raise PalateError(f"{name}: {error}") from error


def read_yaml(path: str | Path) -> dict:
    """A YAML file as a dict. Raises PalateError when it is absent, not YAML, or not a mapping."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PalateError(f"{path}: {error.strerror}. Give the path of a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PalateError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(values, dict):
        raise PalateError(f"{path}: expected lines of 'key: value'.")
    return values


def save_config(config: TrainConfig, path: Path) -> None:
    """Write the resolved configuration, every key of it."""
    values = asdict(config)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    if plain["lora"]:
        plain["lora"]["target_modules"] = list(plain["lora"]["target_modules"])
    write_text(path, yaml.safe_dump(plain, sort_keys=False))


def check(config: TrainConfig) -> TrainConfig:
    """Refuse what cannot work before any work starts. Raises PalateError with the reason."""
    needs_judge = config.method != "dpo"
    if needs_judge and not config.judge:
        raise PalateError(
            f"method {config.method!r} needs a judge: add 'judge: NAME' (`palate info DATASET` lists the annotators)."
        )
    if config.judge and not needs_judge:
        raise PalateError(
            "method 'dpo' uses human votes alone, but a judge is given. Remove 'judge', or choose mix, dedpo or judge."
        )
    if config.method != "dedpo" and config.power != 1.0:
        raise PalateError(f"power belongs to method 'dedpo', not to {config.method!r}.")
    ranges = {
        "beta": (config.beta, 0, None), "learning_rate": (config.learning_rate, 0, None), "safeguard": (config.safeguard, 0, 1),
        "train_batch_size": (config.train_batch_size, 1, None), "max_train_steps": (config.max_train_steps, 1, None),
        "gradient_accumulation_steps": (config.gradient_accumulation_steps, 1, None), "prompt_dropout": (config.prompt_dropout, 0, 1),
        "checkpointing_steps": (config.checkpointing_steps, 1, None), "checkpoints_total_limit": (config.checkpoints_total_limit, 1, None),
        "human_votes": (config.human_votes, 1, None), "resolution": (config.resolution, 8, None),
        "power": (None if config.power == "auto" else config.power, 0, 1), "max_grad_norm": (config.max_grad_norm, 0, None),
    }  # fmt: skip
    for key, (value, low, high) in ranges.items():
        if value is None:
            continue
        if not isinstance(value, (int, float)) or not (low <= value <= (high if high is not None else value)):
            raise PalateError(
                f"{key}: {value!r} is not a number {f'between {low} and {high}' if high is not None else f'of at least {low}'}."
            )
    for key in (
        "method",
        "correction",
        "link",
        "safeguard_mode",
        "adaptive_margin",
        "mixed_precision",
        "lr_scheduler",
        "report_to",
    ):
        allowed = _field(key).type.__args__
        if getattr(config, key) not in allowed:
            raise PalateError(f"{key}: {getattr(config, key)!r} is not one of {', '.join(allowed)}.")
    if config.labelled_per_batch is not None and not 0 < config.labelled_per_batch < config.train_batch_size:
        raise PalateError(
            f"labelled_per_batch: {config.labelled_per_batch} must leave room in a batch of {config.train_batch_size}."
        )
    return config


def _field(key: str):
    return next(f for f in fields(TrainConfig) if f.name == key)


def _known(values: dict, name: str, kind: type = TrainConfig) -> dict:
    """The values with nested options built; a key that does not exist is refused, naming the nearest."""
    names = [f.name for f in fields(kind)]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
            raise PalateError(f"{name}: there is no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "."))
    values = dict(values)
    if isinstance(values.get("lora"), dict):
        values["lora"] = LoraOptions(**_known(values["lora"], f"{name}: lora", LoraOptions))
    for key in ("human_annotators", "target_modules"):
        if isinstance(values.get(key), list):
            values[key] = tuple(values[key])
    for key in ("beta", "learning_rate", "adam_weight_decay", "adam_epsilon", "safeguard", "max_grad_norm"):
        if isinstance(values.get(key), str):  # YAML reads 1e-5 as text
            try:
                values[key] = float(values[key])
            except ValueError:
                raise PalateError(f"{name}: {key}: {values[key]!r} is not a number.") from None
    return values
