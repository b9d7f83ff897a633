"""A configuration from a file, a dict or flags, checked; and back into the folder of a run."""

import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypedDict

import yaml

from palate.errors import PalateError
from palate.files import write_text
from palate.foreign import storable
from palate.presets import preset
from palate.reading import read_text
from palate.run.config import TrainConfig
from palate.run.contradictions import check
from palate.run.keys import keys
from palate.run.values import NEEDED, typed

LARGEST_CONFIG = 2**20  # bytes
FREE_ON_RESUME = tuple(keys(TrainConfig, lambda key: key.resume == "free"))


def load_config(
    source: "str | Path | dict[str, Any] | TrainConfig", *, where: str = "configuration", **overrides: Any
) -> TrainConfig:
    """A checked configuration from a YAML file, a dict or a TrainConfig, with single keys overridden; error messages
    call a dict `where`.

    The given keys override those of the method's preset and of the recipe. Raises PalateError for a key that does not
    exist (naming the nearest one), a missing key, a value of another type or out of bounds, or keys that cannot go
    together.
    """
    if not isinstance(source, TrainConfig):
        return check(_read(source, where, overrides))
    if {"method", "recipe"} & set(overrides):
        raise PalateError("method and recipe set other keys; give them with the file or the dict, not afterwards.")
    values = {field.name: getattr(source, field.name) for field in fields(source)}
    return check(TrainConfig(**(typed(values, TrainConfig) | typed(overrides, TrainConfig, "overrides"))))


def _read(source: "str | Path | dict[str, Any]", where: str, overrides: dict[str, Any]) -> TrainConfig:
    """A configuration whose keys have not been checked against each other yet."""
    values, where = (source, where) if isinstance(source, dict) else (read_yaml(source), str(source))
    given = typed({**values, **overrides}, TrainConfig, where)
    behind = preset(given.get("method", "dpo"), given.get("recipe", "none"))
    values = typed(behind, TrainConfig, where) | given
    missing = [name for name in NEEDED if not values.get(name)]
    if missing:
        raise PalateError(f"{where}: {', '.join(missing)} must be given.")
    return TrainConfig(**values)


def refuse_another(run: Path, config: TrainConfig) -> None:
    """Raises PalateError when a folder holds a run with another configuration. A run that was refused before its first
    step does not count."""
    stored = run / "config.yaml"
    if not stored.exists() or not (run / "metrics.jsonl").exists():
        return
    before = load_config(stored)
    changed = [
        f.name
        for f in fields(config)
        if f.name not in FREE_ON_RESUME and _plain(getattr(before, f.name)) != _plain(getattr(config, f.name))
    ]
    if changed:
        told = ", ".join(
            f"{name}: {getattr(before, name)!r} there, {getattr(config, name)!r} here" for name in changed[:3]
        )
        raise PalateError(
            f"{run} holds a run with another configuration ({told}). Choose another output_dir, or delete that folder."
        )


class BaseModel(TypedDict):
    """The model that a run starts from, as arguments of `load_backbone`."""

    name_or_path: str
    revision: str | None
    variant: str | None
    vae: str | None


def base_model(config: TrainConfig) -> BaseModel:
    """The base model of a configuration."""
    return BaseModel(
        name_or_path=config.pretrained_model_name_or_path,
        revision=config.revision,
        variant=config.variant,
        vae=config.vae,
    )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as a dict. Raises PalateError when it is absent, not YAML, not a mapping, or has a key twice."""
    try:
        values = yaml.load(read_text(path, LARGEST_CONFIG), _Loader)
    except PalateError as error:
        raise PalateError(f"{error} Give the path of a YAML file.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PalateError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from error
    except _Twice as error:
        raise PalateError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise PalateError(f"{path}: expected lines of 'key: value'.")
    return values


def save_config(config: TrainConfig, path: Path) -> None:
    """Write the resolved configuration, every key of it; addresses without their passwords (`storable`)."""
    write_text(path, yaml.safe_dump(_plain(asdict(config)), sort_keys=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return storable(value)
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


class _Twice(Exception):
    """A key occurs twice in one mapping."""


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of version 1.2 (1e-5 is one), which refuses a repeated key: the last one would win
    silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name, line = key.value, key.start_mark.line + 1
            if isinstance(name, str) and name in lines:
                where = f"lines {lines[name]} and {line}" if lines[name] != line else f"line {line} twice"
                raise _Twice(f"{name} stands in {where}; remove one of them.")
            lines[name if isinstance(name, str) else id(key)] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+|\d+\.\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
