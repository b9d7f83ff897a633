"""People: how far they agree with each other and with themselves, and how reliable each one is."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from palate.audits.agreement import agreement_with_others, alpha_estimate, first_share, self_agreement
from palate.audits.couples import Couple, counted_as_one, couples_of
from palate.audits.evidence import Evidence
from palate.audits.intervals import Estimate, share_estimate
from palate.audits.reliability import bradley_terry_estimates, dawid_skene_estimates
from palate.data.annotators import FEWEST_PEOPLE, shared_votes
from palate.judges.extra import joined


@dataclass(frozen=True)
class Person:
    """One human annotator. None: not measurable from these votes."""

    name: str
    votes: int
    ties: int
    shared: int  # pairs that somebody else voted on too
    agrees: Estimate | None  # with the mean vote of the others
    again: Estimate | None  # with their own earlier answer
    dawid_skene: Estimate | None  # reliability: says which image is better; people who count as one are one voice
    bradley_terry: Estimate | None  # reliability: follows the common utility on a typical pair
    first: Estimate | None  # share of votes for the image shown first
    known: Estimate | None = None  # right answers on control pairs, whose answer is known
    if_independent: Estimate | None = None  # dawid_skene with everybody a voice; None where nobody counts as one

    @property
    def opposed(self) -> bool:
        """Clearly votes against the others more often than with them, by either model."""
        return any(r is not None and r.beyond(0.5) < 0 for r in (self.dawid_skene, self.bradley_terry))


@dataclass(frozen=True)
class People:
    """All human annotators, the busiest first."""

    persons: list[Person]
    alpha: Estimate | None  # Krippendorff's: 1 perfect agreement, 0 chance
    again: Estimate | None  # self-agreement of all
    first: Estimate | None
    notes: list[str] = field(default_factory=list)
    couples: list[Couple] = field(default_factory=list)  # the largest excess first; empty with fewer than four people
    as_one: tuple[tuple[str, ...], ...] = ()  # people who answer alike and count as one
    warning: str = ""  # about them, in words

    @property
    def opposed(self) -> tuple[str, ...]:
        return tuple(person.name for person in self.persons if person.opposed)

    @property
    def agreeing(self) -> tuple[str, ...]:
        return tuple(person.name for person in self.persons if not person.opposed)


def audit_people(evidence: Evidence, known: pa.Table | None = None, seed: int = 0) -> People:
    """What human votes say about each other, and votes on control pairs (`read_known_votes`) about their voters."""
    votes, group = evidence.human, evidence.group
    _, shared = shared_votes(votes, len(group))
    agrees = agreement_with_others(votes, group)
    again, again_each = self_agreement(votes, group)
    couples = couples_of(votes, group, seed)
    as_one = counted_as_one(couples)
    if_independent, bradley_terry = (
        dawid_skene_estimates(votes, group, seed),
        bradley_terry_estimates(votes, len(group)),
    )
    dawid_skene = dawid_skene_estimates(votes, group, seed, sets=as_one) if as_one else if_independent
    right = _right(known)
    persons = []
    for k, name in enumerate(votes.names):
        own = votes.of(name)
        persons.append(
            Person(
                name, len(own), int((own.value == 0.5).sum()), int(shared[k]), agrees[name], again_each[name],
                dawid_skene[name], bradley_terry[name], first_share(own, group), right.get(name),
                if_independent[name] if as_one else None,
            )
        )  # fmt: skip
    persons.sort(key=lambda person: (-person.votes, person.name))
    notes = _what_cannot_be_said(votes.names, shared, again, votes.side)
    return People(
        persons, alpha_estimate(votes, group, seed), again, first_share(votes, group), notes, couples, as_one,
        alike_in_words(couples, as_one, {person.name: person for person in persons}),
    )  # fmt: skip


def alike_in_words(couples: list[Couple], as_one: tuple[tuple[str, ...], ...], persons: dict[str, Person]) -> str:
    """The warning about people who answer alike; "" where nobody does."""
    told = []
    for names in as_one:
        inside = [c for c in couples if {c.first, c.second} <= set(names) and c.flagged]
        outside = [c.same.value for c in couples if not c.flagged and c.same]
        shares = [c.same.value for c in inside if c.same]
        alike = " to ".join(dict.fromkeys(f"{100 * share:.0f}" for share in (min(shares), max(shares))))
        rest = f" (other couples on {100 * min(outside):.0f} to {100 * max(outside):.0f} %)" if outside else ""
        text = (
            f"{joined(names)} choose the same image on {alike} %{rest}, more than being right explains: one account,"
            " copied answers, or a taste of their own."
        )
        people = [persons[name] for name in names]
        if all(p.dawid_skene and p.if_independent for p in people):
            now, before = (
                joined([f"{100 * e.value:.0f} %" for e in found if e])
                for found in ([p.dawid_skene for p in people], [p.if_independent for p in people])
            )
            text += (
                f" Counted as one, their reliability (Dawid-Skene) is {now}; as if independent, it would be {before}."
            )
        told.append(text)
    return " ".join(told)


def _right(known: pa.Table | None) -> dict[str, Estimate]:
    """Share of right answers by person; a tie is wrong, a skip does not count."""
    answers: dict[str, list[bool]] = {}
    for row in [] if known is None else known.to_pylist():
        if row["choice"] != "skip":
            answers.setdefault(row["annotator_id"], []).append(row["choice"] == row["answer"])
    found = {name: share_estimate(np.array(right, float), np.arange(len(right))) for name, right in answers.items()}
    return {name: share for name, share in found.items() if share is not None}


def _what_cannot_be_said(
    names: tuple[str, ...], shared: np.ndarray, again: Estimate | None, side: np.ndarray
) -> list[str]:
    if not names:
        return ["No human votes: nothing can be said of people, nor of any judge's errors. Label some pairs."]
    notes = []
    sharing = int((shared > 0).sum())
    if len(names) == 1:
        notes.append("One person voted: agreement between people and reliability need a second and a third one.")
    elif sharing == 0:
        notes.append("No pair was seen by two people: let them share some pairs to measure agreement and reliability.")
    elif sharing < FEWEST_PEOPLE:
        notes.append(
            "Two people share pairs: their agreement is known, not which of them is right. That needs a third."
        )
    if again is None:
        notes.append("No pair was shown twice to the same person: self-agreement is unknown. Repeat a few pairs.")
    if not side.any():
        notes.append("Position bias of people: the order in which the images were shown is not recorded (order_shown).")
    return notes
