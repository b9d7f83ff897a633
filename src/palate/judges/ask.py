"""What a judge says of pairs, made into answers: its scores or probabilities are checked, whoever wrote it."""

import numbers
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import expit

from palate.errors import PalateError
from palate.judges.base import Answer, Judge, Pair


def ask(
    name: str,
    judge: Judge,
    pairs: list[Pair],
    temperature: float | None = None,
    embeddings: np.ndarray | None = None,
) -> list[Answer]:
    """The judge's answers on pairs [N], probabilities made of scores where those are what it gives.

    Scores become sigmoid((score_0 - score_1) / temperature): the temperature given, else the judge's own, else 1. A
    judge that gives bare probabilities is asked again with the pictures exchanged, and (p + 1 - p_swapped) / 2 counts,
    so that swapping a pair always mirrors its probability. `embeddings` are for a judge whose `vote` takes them. Raises
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
            numbers_given = (answer.probability, answer.score_0, answer.score_1)
            _check(name, [pair], np.array([[x for x in numbers_given if x is not None]]))
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
    if not answer.from_scores or answer.score_0 is None or answer.score_1 is None:
        return answer
    return replace(answer, probability=float(expit((answer.score_0 - answer.score_1) / scale)))


def _said(name: str, judge: Judge, pairs: list[Pair], embeddings: np.ndarray | None = None) -> Any:
    vote: Callable[..., Any] = judge.vote  # of some judges with `embeddings`
    try:
        return vote(pairs) if embeddings is None else vote(pairs, embeddings=embeddings)
    except PalateError:
        raise
    except Exception as error:  # a plug-in may raise anything
        for pair in pairs if len(pairs) > 1 else ():
            try:
                judge.vote([pair])
            except Exception as its_own:
                raise raised(name, f"on pair {pair.pair_id}", its_own) from its_own
        where = f"on pair {pairs[0].pair_id}"
        if len(pairs) > 1:
            where = (
                f"on pairs {pairs[0].pair_id} to {pairs[-1].pair_id} together, on none alone (--batch-size 1 may help)"
            )
        raise raised(name, where, error) from error


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


def raised(name: str, where: str, error: Exception) -> PalateError:
    """One line about what a plug-in raised."""
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
