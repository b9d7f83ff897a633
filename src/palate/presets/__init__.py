"""The methods of the literature as presets: each a YAML file of a few keys. A method is a choice of parts, not a
trainer."""

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from palate.errors import PalateError, did_you_mean


@dataclass(frozen=True)
class Method:
    """One preset: what it sets, where it comes from, and the hyper-parameters that were published with it."""

    name: str
    title: str
    says: str  # what it does, in one sentence
    config: dict[str, Any]
    paper: str | None = None  # arXiv number, or a venue where there is none
    derived: str | None = None  # what is ours, because the paper or its code does not say it
    original: str | None = None  # the published beta and its rule, where ours is a multiple of it
    sampling: str | None = None  # what has to be done when pictures are made
    sd15: dict[str, Any] = field(default_factory=dict)  # published hyper-parameters, in our keys
    sdxl: dict[str, Any] = field(default_factory=dict)


@cache
def methods() -> dict[str, Method]:
    """Every method by name, in the order of the alphabet."""
    found = [path for path in files(__package__).iterdir() if path.name.endswith(".yaml")]
    read = {path.name.removesuffix(".yaml"): yaml.safe_load(path.read_text(encoding="utf-8")) for path in found}
    return {name: Method(name=name, **read[name]) for name in sorted(read)}


def method(name: str) -> Method:
    """One method. Raises PalateError for a name that is none, with the nearest."""
    known = methods()
    if name not in known:
        raise PalateError(f"method {name!r} is not known{did_you_mean(name, known, '`palate methods` lists them.')}")
    return known[name]


def preset(name: str, recipe: str = "none") -> dict[str, Any]:
    """The keys that a method sets, with those of a recipe ("sd15", "sdxl") on top. Raises PalateError where there is
    none."""
    chosen = method(name)
    if recipe == "none":
        return dict(chosen.config)
    if recipe not in ("sd15", "sdxl"):
        raise PalateError(
            f"recipe: {recipe!r} is not one of none, sd15, sdxl{did_you_mean(recipe, ('none', 'sd15', 'sdxl'))}"
        )
    published: dict[str, Any] = getattr(chosen, recipe)
    if not published:
        there = [name for name in ("sd15", "sdxl") if getattr(chosen, name)]
        raise PalateError(f"method {name}: no hyper-parameters were published for {recipe}; "
                          f"{'there are some for ' + there[0] if there else 'leave recipe out'}.")  # fmt: skip
    return chosen.config | published
