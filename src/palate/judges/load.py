"""Finds a judge by its name: palate's own, rewards, and plug-ins of other packages."""

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from PIL import Image

from palate.errors import PalateError, did_you_mean
from palate.judges.ask import raised
from palate.judges.base import SELF, Judge, Pair
from palate.judges.rewards import STATISTICS, Reward, load_reward
from palate.world import SHIPPED

# name -> module, class, and fixed arguments; all other settings are the user's
BUILT_IN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "clip": ("palate.judges.clip", "ClipJudge", {"kind": "clip"}),
    "pickscore": ("palate.judges.clip", "ClipJudge", {"kind": "pickscore"}),
    "hpsv2.1": ("palate.judges.clip", "ClipJudge", {"kind": "hpsv2.1"}),
    "aesthetic": ("palate.judges.aesthetic", "AestheticJudge", {}),
    "imagereward": ("palate.judges.image_reward", "ImageRewardJudge", {}),
    "vlm": ("palate.judges.vlm", "VisionLanguageJudge", {}),
}


def load_judge(name: str, **settings: Any) -> Judge:
    """The judge of that name: one of palate's, a reward of `palate.judges.rewards`, or a plug-in. For a run as a judge
    (`self:RUN`), which belongs to a later room, see `palate.training.implicit_judge.load_any_judge`.

    Raises PalateError for a name that is not known (listing what there is) or a setting that the judge does not take.
    """
    if name in BUILT_IN:
        module, kind, told = BUILT_IN[name]
        return make_judge(name, partial(getattr(import_module(module), kind), **told), settings)
    found = entry_points(group="palate.judges")
    if name in found.names:
        try:
            kind = found[name].load()
        except Exception as error:  # whatever its package raises while it is imported
            raise raised(name, "while it was imported", error) from error
        return make_judge(name, kind, settings)
    return make_judge(name, partial(_RewardJudge, _reward(name, list(found.names))), settings)


class _RewardJudge:
    """A reward of single pictures as a judge of pairs."""

    version = "1"

    def __init__(self, reward: Reward):
        self._reward = reward

    def vote(self, pairs: list[Pair]) -> np.ndarray:
        prompts = [pair.prompt for pair in pairs]
        sides = ([pair.image_0 for pair in pairs], [pair.image_1 for pair in pairs])
        return np.stack([self._scores(images, prompts) for images in sides], axis=1)

    def _scores(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        arrays = [np.asarray(image) for image in images]
        if len({array.shape for array in arrays}) == 1:
            return self._reward(np.stack(arrays), prompts)
        return np.concatenate([self._reward(a[None], [p]) for a, p in zip(arrays, prompts, strict=True)])


def _reward(name: str, plug_ins: list[str]) -> Reward:
    try:
        return load_reward(name)
    except PalateError as error:
        known = [*BUILT_IN, f"{SELF}RUN", *plug_ins]
        near = did_you_mean(name, [*known, *SHIPPED, *STATISTICS], "a package can add one (entry point palate.judges).")
        raise PalateError(
            f"judge {name!r} is not known: there are {', '.join(known)}, and the scorers (world, brightness, ...){near}"
        ) from error


def make_judge(name: str, make: Callable[..., Judge], settings: dict[str, Any]) -> Judge:
    """Build the judge: `make(**settings)`. Raises PalateError for an unknown setting, and for a plug-in that raises or
    cannot vote."""
    bound = make.keywords if isinstance(make, partial) else {}
    try:
        known = {n: p for n, p in inspect.signature(make).parameters.items() if n not in bound}
    except (TypeError, ValueError) as error:  # not callable, or without a signature
        raise PalateError(
            f"judge {name!r}: {make!r} is not a class that palate can call. Point the entry point at one."
        ) from error
    unknown = [] if any(p.kind is p.VAR_KEYWORD for p in known.values()) else [s for s in settings if s not in known]
    if unknown:
        raise PalateError(
            f"judge {name!r} takes no setting {unknown[0]!r}: it takes {', '.join(known) or 'none'}"
            f"{did_you_mean(unknown[0], known, 'leave it out.')}"
        )
    try:
        judge = make(**settings)
    except PalateError:
        raise
    except Exception as error:  # a plug-in's own
        raise raised(name, "while it was made", error) from error
    if not callable(getattr(judge, "vote", None)):
        raise PalateError(f"judge {name!r} has no method vote(pairs). Give its class one; docs/annotate.md shows how.")
    return judge
