"""What a run was trained on and how, from its own files."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from palate.data.schema import OVERALL
from palate.files import read_object
from palate.foreign import without_passwords
from palate.presets import preset
from palate.run.checks import judge_name
from palate.run.config import TrainConfig
from palate.run.drift import METRIC
from palate.run.keys import default_of, key_of, keys
from palate.run.load import load_config
from palate.run.metrics import read_metrics
from palate.run.values import typed

CURVES = (
    "rewards/accuracies",
    "rewards/margins",
    "winner_error",
    "loser_error",
    "lambda/mean",
    "loss_per_pair",
    "validation/cross_entropy",
    METRIC,
)
BY_DRIFT = "validation/accuracy by drift"
OTHERS = "other keys"
AGAIN = "The run's `palate train` command writes it again; nothing is trained anew."
_PACKAGES = ("palate", "torch", "diffusers", "transformers", "peft", "accelerate")


def is_run(path: Path) -> bool:
    """Whether there is a run in this folder."""
    return (path / "config.yaml").is_file()


def account_of(run: Path) -> dict[str, Any]:
    """The run's account of its labels (labels.json); empty if there is none. PalateError when it is damaged."""
    path = run / "labels.json"
    return read_object(path, AGAIN) if path.is_file() else {}


def training_of(run: Path) -> dict[str, str]:
    """The run in words, row by row: base model, dataset, votes, judge and its correction, safeguard, strength, steps.

    Each key declares its row (`told` in run/config.py). Keys without a row come last, and only if they differ from the
    method's preset.
    """
    config, account = load_config(run / "config.yaml"), account_of(run)
    rows = {
        "method": config.method,
        "base model": (
            config.pretrained_model_name_or_path + (f", revision {config.revision}" if config.revision else "")
        ),
        "started from": config.start_from,
        "dataset": config.dataset,
        "used": account.get("used"),
        "target": _target(config, account),
        "judge": judge_name(config) or config.reward,
        "correction of the judge": _correction(config, account),
        "question": _question(config),
        "human votes of": ", ".join(config.human_annotators) if config.human_annotators else None,
        "safeguard": None if config.safeguard is None else f"μ {config.safeguard:g}, {config.safeguard_mode}",
        "weights": _set(config, "weights"),
        "loss": _loss(config),
        "beta": f"{config.beta:g}",
        "trained": _trained(config),
        "steps": _steps(run, config),
        "learning rate": f"{config.learning_rate:g}, {config.lr_scheduler}",
        "precision": None if config.mixed_precision == "no" else config.mixed_precision,
        "seed": str(config.seed),
        OTHERS: _others(config),
    }
    return {row: without_passwords(str(told)) for row, told in rows.items() if told}


def curves_of(run: Path) -> dict[str, list[tuple[float, float]]]:
    """The run's metrics for the page: metric -> (step, value); and its agreement with held-out votes by drift, from the
    base on: (drift, value)."""
    lines = read_metrics(run)
    chosen = [name for name in CURVES if any(name in line for line in lines)]
    if "lambda/mean" in chosen and load_config(run / "config.yaml").safeguard is None:
        chosen.remove("lambda/mean")
    curves = {name: [(line["step"] + 1, line[name]) for line in lines if name in line] for name in chosen}
    measured = [(line[METRIC], line["validation/accuracy"]) for line in lines if METRIC in line]
    return curves | ({BY_DRIFT: [(0.0, 0.5), *measured]} if measured else {})


def versions_of(run: Path) -> dict[str, str]:
    """Versions of packages and Python in the training; empty if not stored."""
    told = _environment(run)
    if not told:
        return {}
    packages = ", ".join(f"{name} {told[name]}" for name in _PACKAGES if name in told)
    return {"versions": packages, "python": str(told.get("python", "not known"))}


def folder_of(run: Path) -> str:
    """The folder in which the run's command was typed; "" if not stored."""
    return str(_environment(run).get("folder", ""))


def _environment(run: Path) -> dict[str, Any]:
    path = run / "environment.json"
    return read_object(path, AGAIN) if path.is_file() else {}


def command_of(run: Path) -> str:
    """The command that trained the run; "" if not stored."""
    path = run / "command.txt"
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""


def _target(config: TrainConfig, account: dict[str, Any]) -> str:
    if config.source != "pairs":
        return f"none: {config.source}"
    words = {
        "human": "human votes alone",
        "mix": "human votes, the judge's elsewhere",
        "judge": "the judge's votes alone",
        "auto": str(account.get("choice", {}).get("way", "the way of least risk")),
        "dedpo": "the judge's votes, debiased by human votes (DeDPO)",
    }
    power = account.get("power", config.power)
    told: str = words[config.target]
    if config.target == "dedpo":
        told += f", power {power:.2f}" if isinstance(power, float) else f", power {power}"
    return told + (", hard votes" if config.hard_votes else "") + (", swapped" if config.swap else "")


def _question(config: TrainConfig) -> str | None:
    if isinstance(config.question, str):
        return None if config.question == OVERALL else config.question
    told = ", ".join(f"{name} {weight:g}" for name, weight in config.question.items())
    return told + ("" if config.question_rule == "weights" else f"; {config.question_rule}")


def _correction(config: TrainConfig, account: dict[str, Any]) -> str | None:
    if not config.judge:
        return None
    covariates = account.get("corrected judge", {}).get("covariates", "")
    return config.correction + (f" ({covariates})" if covariates not in ("", "none") else "")


def _set(config: TrainConfig, row: str) -> str:
    """The keys of a row that are switched on, with their values."""
    usual = {field.name: default_of(field) for field in fields(TrainConfig)}
    values = {name: getattr(config, name) for name in keys(TrainConfig, lambda key: key.told == row)}
    told = [
        name if value is True else f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}"
        for name, value in values.items() if value and value != usual[name]
    ]  # fmt: skip
    return ", ".join(told)


def _others(config: TrainConfig) -> str:
    """Keys without a row that differ from their default and from what the method and its recipe set."""
    usual = typed(preset(config.method, config.recipe), TrainConfig)
    told = []
    for field in fields(TrainConfig):
        value = getattr(config, field.name)
        if key_of(field).told is None and value != usual.get(field.name, default_of(field)):
            told.append(f"{field.name} {value}")
    return ", ".join(told)


def _loss(config: TrainConfig) -> str:
    losses = [name if weight == 1 else f"{weight:g} {name}" for name, weight in config.losses.items()]
    return " + ".join(losses) + (f", link {config.link}" if "preference" in config.losses else "")


def _trained(config: TrainConfig) -> str:
    if config.trains == "classifier":
        return "a preference classifier that guides the base model"
    return f"LoRA of rank {config.lora.rank}" if config.lora else "all weights of the denoiser"


def _steps(run: Path, config: TrainConfig) -> str:
    lines = read_metrics(run)
    done = lines[-1]["step"] + 1 if lines else config.max_train_steps
    rows = config.train_batch_size * config.gradient_accumulation_steps
    short = f" of {config.max_train_steps:,}" if done < config.max_train_steps else ""
    return f"{done:,}{short} of {rows} rows each"
