"""Votes on several questions: how many answer which, what judges are worth on each, how often the winners differ."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from palate.audits.evidence import Evidence, read_evidence
from palate.audits.intervals import Estimate, share_estimate
from palate.audits.judges import Judge, audit_judges
from palate.data.dataset import PreferenceDataset
from palate.data.questions import questions_of
from palate.data.schema import OVERALL


@dataclass(frozen=True)
class Asked:
    """One question, and every judge on it."""

    name: str
    votes: int  # of people
    pairs: int  # with a human vote
    people: int
    ties: int
    judges: list[Judge] = field(default_factory=list)  # empty for the question that the rest of the audit is about
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Between:
    """Two questions on the same pairs."""

    one: str
    two: str
    pairs: int  # with people's votes on both
    changes: Estimate | None  # share of the pairs decided on both on which another image wins
    same_person: Estimate | None  # how often a person gave both questions about a pair the same answer


def main_question(dataset: PreferenceDataset) -> str:
    """The question that an audit is about where none is named: overall, or the busiest where only others have votes of
    people."""
    there = questions_of(dataset, "human")
    return OVERALL if not there or OVERALL in there else next(iter(there))


def audit_questions(
    dataset: PreferenceDataset, main: str, human_annotators: tuple[str, ...] | None, seed: int
) -> tuple[list[Asked], list[Between]]:
    """Every question that people answered, and every couple of them; two empty lists where there is the main one alone.

    Judges are measured on each question but the main one, which the audit measures anyway. A judge without votes on a
    question is measured by its overall ones, and a note says so.
    """
    names = list(questions_of(dataset, "human"))
    if not set(names) - {main}:
        return [], []
    read = {name: read_evidence(dataset, human_annotators, None, seed, question=name) for name in names}
    asked = [
        _asked(name, evidence, [] if name == main else audit_judges(evidence, seed)[0])
        for name, evidence in read.items()
    ]
    return asked, [between(one, two, read[one], read[two]) for one, two in combinations(names, 2)]


def between(one: str, two: str, first: Evidence, second: Evidence) -> Between:
    """How far two questions have the same answers, over the pairs of one dataset."""
    means = [evidence.labels().human for evidence in (first, second)]
    both = ~np.isnan(means[0]) & ~np.isnan(means[1])
    sides = [np.sign(mean - 0.5) for mean in means]
    decided = both & (sides[0] != 0) & (sides[1] != 0)
    changed = (sides[0] != sides[1])[decided].astype(float)
    return Between(
        one, two, int(both.sum()), share_estimate(changed, first.group[decided]) if decided.any() else None,
        _same_person(first, second),
    )  # fmt: skip


def _same_person(first: Evidence, second: Evidence) -> Estimate | None:
    answers = [_first_answers(evidence) for evidence in (first, second)]
    shared = sorted(answers[0].keys() & answers[1].keys())
    if not shared:
        return None
    same = np.array([answers[0][key] == answers[1][key] for key in shared], float)
    return share_estimate(same, first.group[[pair for pair, _ in shared]])


def _first_answers(evidence: Evidence) -> dict[tuple[int, str], float]:
    """(pair, person) -> their first answer."""
    votes = evidence.human.first_only()
    names = (votes.names[k] for k in votes.annotator.tolist())
    return dict(zip(zip(votes.pair.tolist(), names, strict=True), votes.value.tolist(), strict=True))


def _asked(name: str, evidence: Evidence, judges: Iterable[Judge]) -> Asked:
    votes = evidence.human
    stood = [note for note in evidence.notes if "overall votes" in note]
    return Asked(
        name, len(votes), int(evidence.labels().labelled.sum()), len(votes.names), int((votes.value == 0.5).sum()),
        list(judges), stood,
    )  # fmt: skip
