"""Votes on several questions as one target per pair.

Cross-entropy is linear in its label, so the weighted mean of the objectives of several questions is one objective
again: the weights of a pair add up, and its target is the mean of the targets with these weights. Each question is
debiased on its own, by its own judge and propensity, and an expectation goes through a sum: the only rule that keeps
debiased targets unbiased. A majority, or a pair that one image wins on every question, is decided by the votes
themselves, so it is a rule for targets of people alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.arrays import Floats
from palate.data.dataset import PreferenceDataset
from palate.data.labels import only_people
from palate.data.questions import require_question, votes_on
from palate.data.schema import OVERALL
from palate.errors import PalateError
from palate.labels.targets import Targets
from palate.run.checks import judges_of
from palate.run.config import TrainConfig


@dataclass(frozen=True)
class Asked:
    """One question of a run: the votes on it, and with which probability people were asked it."""

    name: str
    weight: float
    votes: pa.Table  # people's on this question; of a judge without any on it, its overall ones
    propensity: Floats  # [N]
    stand_ins: tuple[str, ...]  # the judges whose overall votes they are

    def of_judge(self, judge: str) -> str:
        """The question that this judge's votes answer."""
        return OVERALL if judge in self.stand_ins else self.name


def ask(dataset: PreferenceDataset, pairs: pa.Table, config: TrainConfig, name: str, weight: float) -> Asked:
    """The votes that a run uses for a question; says where a judge's overall votes stand in. Raises PalateError for a
    question without votes, and for people who never voted on it."""
    require_question(dataset, name)
    columns = ["pair_id", "annotator_id", "source", "choice", "probability"]
    votes, stand_ins = votes_on(dataset, name, columns)
    if config.human_annotators is not None:
        votes = only_people(votes, config.human_annotators)
    if used := [judge for judge in judges_of(config) if judge in stand_ins]:
        print(
            f"labels: {', '.join(used)} did not vote on {name}: overall votes stand in, corrected on people's answers"
        )
    if name == OVERALL:
        return Asked(name, weight, votes, pairs["propensity"].to_numpy(), stand_ins)
    every = dataset.pairs(["pair_id", "propensity"], question=name)
    place = pc.index_in(pairs["pair_id"], value_set=every["pair_id"].combine_chunks())
    return Asked(name, weight, votes, pc.take(every["propensity"], place).to_numpy(), stand_ins)


def combined(humans: list[Floats], asked: list[Asked], config: TrainConfig) -> Floats:
    """The human votes on all questions as one number per pair [N], by the rule of the configuration."""
    weights = [one.weight for one in asked]
    if config.question_rule == "majority":
        return majority(humans, weights)
    if config.question_rule == "weights":
        return mean_votes(humans, weights)
    kept, voted = pareto(humans), ~np.isnan(np.stack(humans)).all(axis=0)
    if np.isnan(kept).all():
        raise PalateError(
            "question_rule: pareto leaves no pair: none has an image that wins on one question and loses on none. Use"
            " weights, which needs no agreement."
        )
    print(f"labels: {int((voted & np.isnan(kept)).sum()):,} pairs are left out, on which no image wins without losing")
    return kept


def questions_in(config: TrainConfig) -> dict[str, float]:
    """The questions that a run is about and their weights, which sum to 1; one of weight 0 is none of them."""
    given: Mapping[str, float] = {config.question: 1.0} if isinstance(config.question, str) else config.question
    total = sum(given.values())
    return {name: weight / total for name, weight in given.items() if weight > 0} or {OVERALL: 1.0}


def weighted_targets(parts: Sequence[Targets], weights: Sequence[float]) -> Targets:
    """The objective sum over questions of weight * (its own weighted mean), as one target and weight per pair [N].

    A question's own weights are divided by their sum first, as its objective is: a question with few labelled pairs
    then counts no less than its weight says.
    """
    if len(parts) == 1:
        return parts[0]
    own = np.stack([w * part.weight / part.weight.sum() for w, part in zip(weights, parts, strict=True)])  # [Q, N]
    total = own.sum(axis=0)
    pulled = (own * np.stack([part.target for part in parts])).sum(axis=0)
    return Targets(
        target=np.divide(pulled, total, out=np.full(len(total), 0.5), where=total > 0),
        weight=total * len(total),
        labelled=np.any([part.labelled for part in parts], axis=0),
    )


def mean_votes(humans: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted mean of the human votes [N] on the questions that have one; NaN where none has."""
    if len(humans) == 1:
        return humans[0]
    voted = ~np.isnan(np.stack(humans))  # [Q, N]
    weight = np.asarray(weights)[:, None] * voted
    total = weight.sum(axis=0)
    pulled = (weight * np.nan_to_num(np.stack(humans))).sum(axis=0)
    mean: Floats = np.divide(pulled, total, out=np.full(len(total), np.nan), where=total > 0)
    return mean


def majority(humans: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The side that more questions prefer, each counted by its weight, [N]: 1, 0, or 1/2 where they are even; NaN where
    no question has a vote."""
    sides = np.sign(np.stack(humans) - 0.5)  # [Q, N]
    count = np.nansum(np.asarray(weights)[:, None] * sides, axis=0)
    found: Floats = np.where(np.abs(count) < 1e-9, 0.5, (count > 0).astype(float))
    return np.where(np.isnan(sides).all(axis=0), np.nan, found)


def pareto(humans: Sequence[Floats]) -> Floats:
    """1 where image 0 wins on a question and loses on none, 0 where image 1 does, [N]; NaN for all other pairs: they
    are left out."""
    sides = np.nan_to_num(np.sign(np.stack(humans) - 0.5))  # [Q, N]; a tie or no vote speaks against neither
    wins, losses = (sides > 0).any(axis=0), (sides < 0).any(axis=0)
    return np.where(wins & ~losses, 1.0, np.where(losses & ~wins, 0.0, np.nan))
