"""Scorers give one number per picture, higher is better: reward models, the world's truth, plug-ins. Also drift, the
picture statistics that change unasked.

A scorer is any judge of `palate.judges` that scores single pictures, or a reward of `palate.judges.rewards`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from PIL import Image

from palate.errors import PalateError, did_you_mean
from palate.judges.answers import judge_key
from palate.judges.base import SELF, Judge, Pair
from palate.judges.covariates import picture_statistics
from palate.judges.load import BUILT_IN, load_judge
from palate.judges.rewards import STATISTICS, load_reward
from palate.world import SHIPPED

DRIFT, DIVERSITY = "drift", "diversity"
_SIDE = 16  # pixels; diversity should measure content, not texture
_COMPARES = ("vlm",)  # judges that only compare two pictures


@dataclass(frozen=True)
class Scorer:
    """`score` maps N pictures and their prompts to [N, len(columns)]."""

    name: str
    version: str  # changes with the program, its weights and its settings
    columns: tuple[str, ...]  # names of the numbers; usually the scorer's own name
    score: Callable[[list[Image.Image], list[str]], np.ndarray]
    batch_size: int = 64  # pictures
    whole_prompts: bool = False  # batches hold whole prompts, and each prompt is scored as one group


def load_scorer(name: str, **settings: Any) -> Scorer:
    """The scorer of that name; `settings` are for a judge.

    world, a picture statistic, drift (all of them), diversity (of pixels), diversity:JUDGE (of a CLIP judge's
    embeddings), a plug-in of `palate.scorers`, or a judge that scores single pictures. Raises PalateError for an
    unknown name (with a list), an unknown setting, and a judge that only compares.
    """
    kind, _, judge = name.partition(":")
    if name == DRIFT:
        return Scorer(DRIFT, "1", STATISTICS, _statistics)
    if kind == DIVERSITY and judge:
        return _diversity_of_embeddings(name, judge, settings)
    if name == DIVERSITY:
        return Scorer(DIVERSITY, "1", (DIVERSITY,), lambda images, _: _apart(_pixels(images)), whole_prompts=True)
    if is_judge(name):
        return _of_judge(name, load_judge(name, **settings))
    reward = _reward(name)
    if settings:
        raise PalateError(f"scorer {name!r} takes no setting, and was given {', '.join(settings)}. Leave it out.")
    found = entry_points(group="palate.scorers")
    made_by = getattr(found[name], "dist", None) if name in found.names else None
    version = f"{made_by.name} {made_by.version}" if made_by else "1"
    return Scorer(name, version, (name,), lambda images, prompts: _rewards(reward, images, prompts)[:, None])


def statistic_names(name: str) -> bool:
    """Whether a stored score describes the picture rather than judging it."""
    return name in STATISTICS or name.partition(":")[0] == DIVERSITY


def is_judge(name: str) -> bool:
    """Whether a judge of that name scores single pictures. Raises PalateError for one that only compares."""
    if name in _COMPARES or name.startswith(SELF):
        raise PalateError(
            f"{name!r} compares two pictures and has no score for one. Let it vote on pairs of samples: "
            "palate import samples, palate annotate, palate compare --votes."
        )
    return name in BUILT_IN or name in entry_points(group="palate.judges").names


def _reward(name: str) -> Callable[..., Any]:
    try:
        return load_reward(name)
    except PalateError as error:
        if name in (*SHIPPED, *STATISTICS, *entry_points(group="palate.scorers").names):
            raise
        models = sorted({*BUILT_IN, *entry_points(group="palate.judges").names} - set(_COMPARES))
        others = [*SHIPPED, *STATISTICS, *entry_points(group="palate.scorers").names, DRIFT, DIVERSITY]
        near = did_you_mean(name, [*others, *models], "a package can add one (entry point palate.scorers).")
        raise PalateError(
            f"scorer {name!r} is not known: there are {', '.join(others)}, and the reward models"
            f" {', '.join(models)}{near}"
        ) from error


def _of_judge(name: str, judge: Judge) -> Scorer:
    version = str(getattr(judge, "version", "1"))
    key = judge_key(name, version, dict(getattr(judge, "settings", {})))

    def score(images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        if callable(by_picture := getattr(judge, "score", None)):
            return np.asarray(by_picture(images, prompts), dtype=np.float64).reshape(-1, 1)
        pairs = [Pair(str(i), *shown, shown[1]) for i, shown in enumerate(zip(prompts, images, strict=True))]
        said = np.asarray(judge.vote(pairs), dtype=object)
        if said.shape != (len(pairs), 2):
            raise PalateError(
                f"judge {name!r} compares two pictures and has no score for one (it gave an array of shape "
                f"{said.shape} for {len(pairs)} pairs). Let it vote on pairs: palate annotate."
            )
        return said[:, :1].astype(np.float64)

    return Scorer(name, f"{version}-{key[:8]}", (name,), score, getattr(judge, "batch_size", 16))


def _rewards(reward: Callable[..., Any], images: list[Image.Image], prompts: list[str]) -> np.ndarray:
    """Scores [N], in one call if all pictures have one size."""
    arrays = [np.asarray(image) for image in images]
    if len({array.shape for array in arrays}) == 1:
        return np.asarray(reward(np.stack(arrays), prompts))
    return np.concatenate([reward(array[None], [prompt]) for array, prompt in zip(arrays, prompts, strict=True)])


def _statistics(images: list[Image.Image], prompts: list[str]) -> np.ndarray:
    return np.array([list(picture_statistics(np.asarray(image)).values()) for image in images])


def _pixels(images: list[Image.Image]) -> np.ndarray:
    """[N, D] in [0, 1] over sqrt(D), so that distances are root mean squares of pixel differences."""
    small = [np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64) / 255 for image in images]
    flat = np.stack(small).reshape(len(images), -1)
    return np.asarray(flat / np.sqrt(flat.shape[1]))


def _apart(points: np.ndarray) -> np.ndarray:
    """Mean distance of each of the N points [N, D] to the others, [N, 1]; its mean is the mean over all pairs."""
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return np.asarray(distance.sum(axis=1, keepdims=True) / (len(points) - 1))


def _diversity_of_embeddings(name: str, judge: str, settings: dict[str, Any]) -> Scorer:
    from palate.judges.clip import ClipJudge, image_features

    clip = load_judge(judge, **settings)
    if not isinstance(clip, ClipJudge):
        raise PalateError(
            f"{name}: {judge} has no picture embeddings. Use diversity:clip, or plain diversity of pixels."
        )
    version = f"1-{judge_key(judge, clip.version, clip.settings)[:8]}"

    def score(images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        return _apart(image_features(clip.model, images).cpu().double().numpy())

    return Scorer(name, version, (name,), score, clip.batch_size, whole_prompts=True)
