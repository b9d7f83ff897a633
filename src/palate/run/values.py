"""Check the type, the shape and the bounds of every value before anything else is done with it.

Unambiguous forms are accepted (4.0 for a whole number, 1e2, text for a list of one, `lora: true`); everything else is
refused in one line that shows the right spelling.
"""

import os
import types
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import yaml

from palate.errors import PalateError, did_you_mean
from palate.run.config import LoraOptions, TrainConfig
from palate.run.keys import REQUIRED, Key, default_of, key_of

NEEDED = tuple(field.name for field in fields(TrainConfig) if default_of(field) is REQUIRED)
NESTED = {"lora": LoraOptions}  # keys with keys of their own
# Names of keys in other tools' scripts, and what to write here
ELSEWHERE = {
    "allow_tf32": "it is tf32",
    "scale_lr": "write the learning_rate that you want",
    "rank": "write lora: {rank: 16}",
    "lora_rank": "write lora: {rank: 16}",
    "lora_alpha": "write lora: {alpha: 16}",
    "use_lora": "write lora: {rank: 16}",
    "beta_dpo": "it is beta; docs/objective.md says how the two differ",
    "use_8bit_adam": "write optimizer: adamw-8bit",
    "use_adafactor": "write optimizer: adafactor",
    "use_ema": "write ema_decay: 0.999",
    "dataset_name": "it is dataset, a folder that `palate import` made",
    "train_data_dir": "it is dataset, a folder that `palate import` made",
    "resume_from_checkpoint": "the same command resumes by itself",
    "proportion_empty_prompts": "it is prompt_dropout",
    "enable_xformers_memory_efficient_attention": "torch's own attention needs none; leave it out",
    "dataloader_num_workers": "pairs are encoded beforehand; leave it out",
    "random_flip": "pairs are encoded as they are; leave it out",
    "center_crop": "`palate encode` crops to the middle; leave it out",
    "logging_dir": "it is output_dir",
    "per_device_train_batch_size": "it is train_batch_size, the pairs of all processes together",
    "num_processes": "it is processes",
}


@dataclass(frozen=True)
class Place:
    """Where a value was given: in a file or a dict, or as an option."""

    where: str  # "bad.yaml", or "" for options
    name: str = ""
    inside: str = ""  # the key that holds this one

    @property
    def is_option(self) -> bool:
        return not self.where

    @property
    def option(self) -> str:
        """Its spelling on the command line."""
        return "--" + ".".join(part for part in (self.inside, self.name) if part).replace("_", "-")

    def __str__(self) -> str:
        return self.option if self.is_option else ": ".join(filter(None, (self.where, self.inside, self.name)))

    def spelled(self, value: str) -> str:
        """The line of a file, or the option, that sets this value."""
        return f"{self.option} {value}" if self.is_option else f"{self.name}: {value}"


def typed(
    values: dict[str, Any], kind: type[TrainConfig] | type[LoraOptions], where: str = "configuration", inside: str = ""
) -> dict[str, Any]:
    """The values converted to the types of their fields, nested ones too; `where` is "" for options.

    Raises PalateError, in one line that begins with where it was given, for a key that does not exist (naming the
    nearest one), a value of another type and one out of bounds.
    """
    by_name = {f.name: f for f in fields(kind)}
    made: dict[str, Any] = {}
    for name, value in values.items():
        place = Place(where, str(name), inside)
        if name not in by_name:
            raise PalateError(f"{Place(where, '', inside)}: {unknown_key(str(name), list(by_name))}")
        if name in NESTED:
            made[name] = _nested(value, NESTED[name], place)
            continue
        field = by_name[name]
        made[name] = _value(value, field.type, place, default_of(field))
        _check_bounds(made[name], key_of(field), place)
    return made


def unknown_key(name: str, known: list[str]) -> str:
    """The message for a key that does not exist."""
    if name in ELSEWHERE:
        return f"there is no key {name!r}; {ELSEWHERE[name]}."
    return f"there is no key {name!r}{did_you_mean(name, known, cutoff=0.4)}"


def none_allowed(kind: Any) -> bool:
    """Whether a key of this type may be absent."""
    return type(None) in get_args(kind)


def choices_of(kind: Any) -> tuple[str, ...]:
    """The names of a closed set that a type allows; empty for other types."""
    parts = parts_of(kind)
    return tuple(name for part in parts if get_origin(part) is Literal for name in get_args(part))


def _nested(value: Any, kind: type[LoraOptions], place: Place) -> LoraOptions | None:
    if isinstance(value, str):
        value = {"true": True, "false": None, "none": None, "null": None}.get(value.lower(), value)
    if value is None or value is False:
        return None
    if isinstance(value, kind):
        value = asdict(value)
    if value is True:
        value = {}
    if not isinstance(value, dict):
        right = f"{place.option}.rank 16" if place.is_option else place.spelled("{rank: 16}")
        raise PalateError(f"{place}: {value!r} is not keys with values; write `{right}`.")
    return kind(**typed(value, kind, place.where, place.name))


def _value(value: Any, kind: Any, place: Place, default: Any) -> Any:
    taken = _plain(value, kind)
    try:
        return msgspec.convert(taken, kind, strict=False)
    except msgspec.ValidationError:
        pass
    choices = choices_of(kind)
    if isinstance(value, str) and choices and len(parts_of(kind)) == 1:
        raise PalateError(f"{place}: {value!r} is not one of {', '.join(choices)}{did_you_mean(value, choices)}")
    quoted = str in parts_of(kind) and isinstance(value, int | float) and not isinstance(value, bool)
    right = place.spelled(f"'{value}'" if quoted else _example(kind, default, place.is_option))
    raise PalateError(f"{place}: {value!r} is not {_told(kind)}; write `{right}`.")


def _plain(value: Any, kind: Any) -> Any:
    """The value in its plain form: numpy's numbers, paths, a list of one, and YAML's `no` are converted."""
    parts = parts_of(kind)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if value is False and bool not in parts and "no" in choices_of(kind):
        return "no"
    lists = [part for part in parts if get_origin(part) is tuple]
    if isinstance(value, str) and lists and str not in parts and get_args(lists[0])[0] is str:
        return (value,)
    if isinstance(value, str) and (float in parts or int in parts or bool in parts):
        return value.strip()
    return value


def _check_bounds(value: Any, key: Key, place: Place) -> None:
    """Raises PalateError for a number, or one of several, that is out of its bounds or NaN."""
    for number in value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        low, high = key.low, key.high
        if (low is None or number >= low) and (high is None or number <= high) and number == number:
            continue
        told = f"of at least {low}" if high is None and low is not None else f"between {low} and {high}"
        told = told if low is not None or high is not None else "that training can use"
        unit = f" ({key.unit})" if key.unit else ""
        raise PalateError(f"{place}: {number!r} is not a number {told}{unit}.")


def parts_of(kind: Any) -> tuple[Any, ...]:
    """The members of a union, without None; for any other type the type itself."""
    members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return tuple(member for member in members if member is not type(None))


def _told(kind: Any) -> str:
    """A type in words."""
    return " or ".join(_told_part(part) for part in parts_of(kind))


def _told_part(part: Any) -> str:
    if get_origin(part) is Literal:
        names = get_args(part)
        return f"one of {', '.join(names)}" if len(names) > 1 else str(names[0])
    if get_origin(part) is tuple:
        of, *more = get_args(part)
        many = "a list of" if Ellipsis in more else f"a list of {len(more) + 1}"
        return f"{many} {'texts' if of is str else 'whole numbers'}"
    if get_origin(part) is dict:
        return "names with numbers"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[part]


def _example(kind: Any, default: Any, option: bool) -> str:
    """A value as a file spells it: the default, or one of the type."""
    if default is None or default is MISSING:
        part = parts_of(kind)[0]
        origin = get_origin(part)
        if origin is tuple:
            default = ("ana", "ben") if get_args(part)[0] is str else (0, 2)
        else:
            default = {bool: True, int: 8, float: 0.5}.get(part, "NAME")
    if isinstance(default, tuple):
        if option:
            return " ".join(str(one) for one in default)
        default = list(default)
    text = yaml.safe_dump(default, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()
