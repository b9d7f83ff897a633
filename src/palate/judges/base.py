"""What a judge is, what it may answer, and where one is found by its name.

A judge is a class with one method, `vote`, from a batch of pairs to numbers. A package adds its own through the entry
point group `palate.judges`.
"""

import inspect
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
from PIL import Image
from scipy.special import expit

from palate.errors import PalateError


@dataclass(frozen=True)
class Pair:
    """What a judge is shown: a prompt and two RGB pictures, in the order in which they are stored."""

    pair_id: str
    prompt: str
    image_0: Image.Image
    image_1: Image.Image

    def swapped(self) -> "Pair":
        """The same pair with its pictures exchanged."""
        return Pair(self.pair_id, self.prompt, self.image_1, self.image_0)


@dataclass(frozen=True)
class Answer:
    """What came of one pair: a probability, with raw scores where the judge has some, or the reason why there is none."""

    probability: float | None = None  # that image 0 is preferred
    score_0: float | None = None
    score_1: float | None = None
    failure: str | None = None
    from_scores: bool = False  # the probability is made of the scores, which are one number per picture
    usage: dict[str, float] = field(default_factory=dict)  # requests, tokens


class Judge(Protocol):
    """`vote` is all a judge needs. It may also have `version` (text), `settings` (a dict that JSON can hold: all that its
    answers depend on), `temperature` (see `ask`), `batch_size`, `annotator` (the id under which it votes), `uses_pair_id`
    (True where its answers depend on more than prompt and pictures), `trained_on` (pair_ids: it learned from their human
    votes, and is not asked about them), and `embed` from N pictures to embeddings [N, D], which are then covariates of its
    correction. Where `vote` takes `embeddings` too, [2N, D] of the images 0 and then the images 1, they cost nothing beside
    a vote."""

    def vote(self, pairs: list[Pair]) -> np.ndarray | Sequence[Answer]:
        """For N pairs: scores [N, 2], higher is better; or probabilities [N] that image 0 is preferred; or N Answers."""


SELF = "self:"  # followed by a run or a configuration
# name -> module and class, and what the class is told; the rest of the settings is the user's
BUILT_IN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "clip": ("palate.judges.clip", "ClipJudge", {"kind": "clip"}),
    "pickscore": ("palate.judges.clip", "ClipJudge", {"kind": "pickscore"}),
    "hpsv2.1": ("palate.judges.clip", "ClipJudge", {"kind": "hpsv2.1"}),
    "aesthetic": ("palate.judges.aesthetic", "AestheticJudge", {}),
    "imagereward": ("palate.judges.image_reward", "ImageRewardJudge", {}),
    "vlm": ("palate.judges.vlm", "VisionLanguageJudge", {}),
    SELF: ("palate.training.implicit_judge", "ImplicitJudge", {}),
}


def load_judge(name: str, **settings: Any) -> Judge:
    """The judge of that name: one of palate's, `self:RUN`, a reward of `palate.judges.rewards`, or a plug-in.

    Raises PalateError for a name that is not known (listing what there is) or a setting that the judge does not take.
    """
    key = SELF if name.startswith(SELF) else name
    if key in BUILT_IN:
        module, kind, told = BUILT_IN[key]
        told = {"run": name.removeprefix(SELF)} if key == SELF else told
        return _made(name, partial(getattr(import_module(module), kind), **told), settings)
    found = entry_points(group="palate.judges")
    if name in found.names:
        try:
            kind = found[name].load()
        except Exception as error:  # whatever its package raises while it is imported
            raise _raised(name, "while it was imported", error) from error
        return _made(name, kind, settings)
    return _made(name, partial(_RewardJudge, _reward(name, list(found.names))), settings)


class _RewardJudge:
    """A reward of one picture at a time, as a judge of pairs."""

    version = "1"

    def __init__(self, reward: Callable):
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


def _reward(name: str, plug_ins: list[str]) -> Callable:
    from palate.judges.rewards import load_reward

    try:
        return load_reward(name)
    except PalateError as error:
        known = ", ".join([*(f"{key}RUN" if key == SELF else key for key in BUILT_IN), *plug_ins])
        raise PalateError(
            f"judge {name!r} is not known; there are {known}, and the scorers (world, brightness, ...). "
            "A package can add one (entry point group palate.judges)."
        ) from error


def _made(name: str, make: Callable, settings: dict[str, Any]) -> Judge:
    bound = make.keywords if isinstance(make, partial) else {}
    try:
        known = {n: p for n, p in inspect.signature(make).parameters.items() if n not in bound}
    except (TypeError, ValueError) as error:  # not callable, or without a signature
        raise PalateError(
            f"judge {name!r}: {make!r} is no class that palate can call. Point the entry point at one."
        ) from error
    unknown = [] if any(p.kind is p.VAR_KEYWORD for p in known.values()) else [s for s in settings if s not in known]
    if unknown:
        raise PalateError(
            f"judge {name!r} takes no setting {unknown[0]!r}; it takes {', '.join(known) or 'none'}. Leave it out."
        )
    try:
        judge = make(**settings)
    except PalateError:
        raise
    except Exception as error:  # a plug-in's own
        raise _raised(name, "while it was made", error) from error
    if not callable(getattr(judge, "vote", None)):
        raise PalateError(f"judge {name!r} has no method vote(pairs). Give its class one; docs/annotate.md shows how.")
    return judge


def ask(
    name: str,
    judge: Judge,
    pairs: list[Pair],
    temperature: float | None = None,
    embeddings: np.ndarray | None = None,
) -> list[Answer]:
    """The judge's answers on pairs [N], probabilities made of scores where those are what it gives.

    Scores become sigmoid((score_0 - score_1) / temperature): the temperature given, else the judge's own, else 1. A
    judge that gives bare probabilities is asked again with the pictures exchanged, and (p + 1 - p_swapped) / 2 counts, so
    that swapping a pair always mirrors its probability. `embeddings` are for a judge whose `vote` takes them. Raises
    PalateError for answers that cannot be used.
    """
    said = _said(name, judge, pairs, embeddings)
    if _are_answers(said):
        answers = list(said)
        if len(answers) != len(pairs):
            raise _useless(name, f"{len(answers)} answers for {len(pairs)} pairs")
        for pair, answer in zip(pairs, answers, strict=True):
            if answer.probability is None and answer.failure is None:
                raise _useless(name, f"neither a probability nor a failure for pair {pair.pair_id}")
            given = (answer.probability, answer.score_0, answer.score_1)
            _check(name, [pair], np.array([[x for x in given if x is not None]]))
            _check_probability(name, [pair], np.array([0.5 if answer.probability is None else answer.probability]))
        return answers
    values = _array(name, said, pairs)
    if values.ndim == 2:
        scale = temperature or float(getattr(judge, "temperature", 1.0))
        return [at_temperature(Answer(None, float(a), float(b), from_scores=True), scale) for a, b in values]
    swapped = _array(name, _said(name, judge, [pair.swapped() for pair in pairs]), pairs)
    for given in (values, swapped):
        _check_probability(name, pairs, given)
    # kept as scores: how likely each image is to be preferred when it is the one shown first
    return [Answer(float((p + 1 - q) / 2), float(p), float(q)) for p, q in zip(values, swapped, strict=True)]


def at_temperature(answer: Answer, scale: float) -> Answer:
    """The answer with its probability made of its scores anew, where it is made of scores."""
    if not answer.from_scores:
        return answer
    return replace(answer, probability=float(expit((answer.score_0 - answer.score_1) / scale)))


def _said(name: str, judge: Judge, pairs: list[Pair], embeddings: np.ndarray | None = None) -> Any:
    try:
        return judge.vote(pairs) if embeddings is None else judge.vote(pairs, embeddings=embeddings)
    except PalateError:
        raise
    except Exception as error:  # a plug-in may raise anything
        for pair in pairs if len(pairs) > 1 else ():
            try:
                judge.vote([pair])
            except Exception as its_own:
                raise _raised(name, f"on pair {pair.pair_id}", its_own) from its_own
        where = f"on pair {pairs[0].pair_id}"
        if len(pairs) > 1:
            where = (
                f"on pairs {pairs[0].pair_id} to {pairs[-1].pair_id} together, on none alone (--batch-size 1 may help)"
            )
        raise _raised(name, where, error) from error


def _are_answers(said: Any) -> bool:
    return isinstance(said, list | tuple) and len(said) > 0 and all(isinstance(one, Answer) for one in said)


def _array(name: str, said: Any, pairs: list[Pair]) -> np.ndarray:
    if said is None or isinstance(said, str | numbers.Number):
        raise _useless(name, f"{said!r} for {len(pairs)} pairs")
    try:
        values = np.asarray(said, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _useless(name, f"something that is no table of numbers for {len(pairs)} pairs") from error
    if values.shape not in ((len(pairs),), (len(pairs), 2)):
        raise _useless(name, f"an array of shape {values.shape} for {len(pairs)} pairs")
    _check(name, pairs, values)
    return values


def _check(name: str, pairs: list[Pair], values: np.ndarray) -> None:
    wrong = np.flatnonzero(~np.isfinite(values.reshape(len(pairs), -1)).all(axis=1))
    if len(wrong):
        raise _useless(name, f"a value that is not a finite number for pair {pairs[wrong[0]].pair_id}")


def _check_probability(name: str, pairs: list[Pair], values: np.ndarray) -> None:
    wrong = np.flatnonzero((values < 0) | (values > 1))
    if len(wrong):
        raise _useless(name, f"the probability {values[wrong[0]]:g} for pair {pairs[wrong[0]].pair_id}")


def _raised(name: str, where: str, error: Exception) -> PalateError:
    told = " ".join(f"{type(error).__name__}: {error}".split())
    return PalateError(
        f"judge {name!r} raised {told[:300]} {where}. What was judged before is kept, and the same command goes on; "
        "PALATE_TRACE=1 before it shows the trace."
    )


def _useless(name: str, what: str) -> PalateError:
    return PalateError(
        f"judge {name!r} gave {what}. It must give scores [N, 2], probabilities [N] in [0, 1], or N answers; "
        "what was judged before is kept."
    )
