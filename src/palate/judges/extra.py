"""Covariates with a ridge of their own: which models made the images, and answers to the questions of a rubric."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from palate.arrays import Bools, Floats

MOST_NAMED = 4  # questions of a rubric that a sentence names


@dataclass(frozen=True)
class Extra:
    """Covariates with a ridge of their own: which models made the images, or answers to the questions of a rubric."""

    kind: str  # models | rubric
    names: tuple[str, ...]
    values: Floats  # [N, K] of image 0 minus image 1: they change sign when the images are swapped


@dataclass(frozen=True)
class Found:
    """What a correction learnt of an Extra: weights with their standard errors, fitted on every human vote."""

    kind: str
    weights: dict[str, float]
    errors: dict[str, float]

    def clear(self) -> list[str]:
        """The names whose weights are beyond two standard errors, the largest first."""
        found = [name for name, weight in self.weights.items() if abs(weight) > 2 * self.errors[name]]
        return sorted(found, key=lambda name: -abs(self.weights[name]))

    def sentence(self, them: str, do: str) -> str:
        """In words; "" where nothing is clear of a rubric."""
        names = self.clear()
        if not names:
            unclear = "No model whose pictures people prefer more, or less, than"
            return f"{unclear} {them} {do} is clear." if self.kind == "models" else ""
        if self.kind == "models":
            more, less = ([name for name in names if sign * self.weights[name] > 0] for sign in (1, -1))
            parts = [*([f"{joined(more)} more"] if more else []), *([f"{joined(less)} less"] if less else [])]
            return f"People prefer pictures of {' and those of '.join(parts)} than {them} {do}."
        return f"Of the rubric {joined(names[:MOST_NAMED])} {'tell' if len(names) > 1 else 'tells'} more."


def used_of(extra: Extra, judged: Bools) -> Extra | None:
    """The columns that differ from 0 on a judged pair; None where none does."""
    there = (extra.values[judged] != 0).any(axis=0)
    if not there.any():
        return None
    names = tuple(name for name, kept in zip(extra.names, there, strict=True) if kept)
    return Extra(extra.kind, names, extra.values[:, there])


def found_of(extras: Sequence[Extra], start: int, weight: Floats, covariance: Floats) -> tuple[Found, ...]:
    """Weights of models are told from their mean: pairs compare models, so only differences between them are known."""
    found = []
    for extra in extras:
        width = len(extra.names)
        here = slice(start, start := start + width)
        told = np.eye(width) - (1 / width if extra.kind == "models" else 0.0)
        errors = np.sqrt(np.maximum(np.diag(told @ covariance[here, here] @ told.T), 0))
        values = [dict(zip(extra.names, row.tolist(), strict=True)) for row in (told @ weight[here], errors)]
        found.append(Found(extra.kind, *values))
    return tuple(found)


def joined(words: list[str] | tuple[str, ...]) -> str:
    """Words as a sentence lists them: a, b and c."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
