"""A configuration from a file, a dict or flags, checked; and back into the folder of a run."""

import ast
import difflib
import inspect
import types
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from palate.errors import PalateError
from palate.files import write_text
from palate.presets import preset
from palate.run.checks import check
from palate.run.config import LoraOptions, TrainConfig

# What may differ when a run goes on: it changes where or how long, not what is computed at a step.
FREE_ON_RESUME = (
    "dataset",
    "output_dir",
    "cache",
    "max_train_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "report_to",
    "processes",
    "parallel",
    "on_spike",
    "spike_factor",
)


def load_config(source: "str | Path | dict | TrainConfig", **overrides: Any) -> TrainConfig:
    """A checked configuration from a YAML file, a dict or a TrainConfig, with single keys replaced.

    The keys of the method's preset, and of the recipe, stand behind those that are given. Raises PalateError for a key
    that does not exist (naming the nearest one), a missing key, a value out of range, or keys that cannot go together.
    """
    if not isinstance(source, TrainConfig):
        return check(read_config(source, **overrides))
    if {"method", "recipe"} & set(overrides):
        raise PalateError("method and recipe set other keys; give them with the file or the dict, not afterwards.")
    return check(replace(source, **_known(overrides, "overrides")))


def read_config(source: "str | Path | dict", **overrides: Any) -> TrainConfig:
    """A configuration whose keys and values have not been checked against each other yet: more of them may follow."""
    values, name = (source, "configuration") if isinstance(source, dict) else (read_yaml(source), str(source))
    values = {**values, **overrides}
    values = _known({**preset(values.get("method", "dpo"), values.get("recipe", "none")), **values}, name)
    missing = [key for key in ("pretrained_model_name_or_path", "dataset", "output_dir") if not values.get(key)]
    if missing:
        raise PalateError(f"{name}: {', '.join(missing)} must be given.")
    try:
        return TrainConfig(**values)
    except (TypeError, ValueError) as error:
        raise PalateError(f"{name}: {error}") from error


def refuse_another(run: Path, config: TrainConfig) -> None:
    """Raises PalateError when a folder holds a run with another configuration. One that was refused before its first
    step holds nothing."""
    stored = run / "config.yaml"
    if not stored.exists() or not (run / "metrics.jsonl").exists():
        return
    before = load_config(stored)
    changed = [
        f.name
        for f in fields(config)
        if f.name not in FREE_ON_RESUME and getattr(before, f.name) != getattr(config, f.name)
    ]
    if changed:
        told = ", ".join(
            f"{name}: {getattr(before, name)!r} there, {getattr(config, name)!r} here" for name in changed[:3]
        )
        raise PalateError(
            f"{run} holds a run with another configuration ({told}). Choose another output_dir, or delete that folder."
        )


def base_model(config: TrainConfig) -> dict[str, str | None]:
    """Which base model a configuration names, in the words of `load_backbone`."""
    base = {"name_or_path": config.pretrained_model_name_or_path, "revision": config.revision}
    return base | {"variant": config.variant, "vae": config.vae}


def help_of_keys() -> dict[str, str]:
    """The sentence below each key of TrainConfig, on one line; empty where there is none."""
    (definition,) = ast.parse(inspect.getsource(TrainConfig)).body
    texts, key = {}, None
    for node in definition.body:
        if isinstance(node, ast.AnnAssign):
            key = node.target.id
            texts[key] = ""
        elif key and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            texts[key] = " ".join(node.value.value.split())
    return texts


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
    write_text(path, yaml.safe_dump(_plain(asdict(config)), sort_keys=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _known(values: dict, name: str, kind: type = TrainConfig) -> dict:
    """The values with nested options built; a key that does not exist is refused, naming the nearest."""
    by_name = {f.name: f for f in fields(kind)}
    for key in values:
        if key not in by_name:
            near = difflib.get_close_matches(key, by_name, n=1, cutoff=0.4)
            raise PalateError(f"{name}: there is no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "."))
    return {key: _value(value, by_name[key].type, f"{name}: {key}") for key, value in values.items()}


def _value(value: Any, kind: Any, where: str) -> Any:
    """The value in the form of its field: YAML has no tuples, and reads 1e-5 as text."""
    choices = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if LoraOptions in choices and isinstance(value, dict):
        return LoraOptions(**_known(value, where, LoraOptions))
    if isinstance(value, list):
        return tuple(value)
    if float in choices and isinstance(value, str) and not any(value in get_args(choice) for choice in choices):
        try:
            return float(value)
        except ValueError:
            raise PalateError(f"{where}: {value!r} is not a number.") from None
    return value
