"""The audit of a dataset: all findings as one record, for the terminal, the page and scripts."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from palate.audits.advice import Recommendation, recommend
from palate.audits.agreement import a_person, ceiling
from palate.audits.choices import choices_of
from palate.audits.choosing import name_a_row
from palate.audits.evidence import read_evidence
from palate.audits.intervals import Estimate
from palate.audits.judges import Judge, audit_judges
from palate.audits.minority import Suspect, flip_probabilities, predicted_votes, read_metric, suspects
from palate.audits.people import People, audit_people
from palate.audits.picked import Picked, find_picked
from palate.audits.planning import Step, gain_and_draws, leading, plan, prompts_in_words
from palate.audits.prompts import prompts_of
from palate.audits.questions import Asked, Between, audit_questions, main_question
from palate.data.dataset import PreferenceDataset
from palate.data.known import read_known_votes
from palate.data.schema import OVERALL
from palate.files import plain


@dataclass(frozen=True)
class Findings:
    """The result of `palate audit`. Estimates have n and a 95 % interval; None means it could not be measured."""

    dataset: str
    path: str
    pairs: int
    prompts: int
    labelled: int  # pairs with a human vote
    human_votes: int
    left_out: tuple[str, ...]  # people opposed to the others: their votes count neither for judges nor for the plan
    recommendation: Recommendation
    judges: list[Judge]
    people: People
    person: Estimate | None  # what a person scores, judged by the others as the judges are
    ceiling: float | None  # the most that any judge can score, where people differ so much
    skill_ceiling: float | None  # the same for the skill of Brier scores
    suspects: list[Suspect]
    suspects_by: str  # "run" or "flip probability"
    suspect_share: float | None  # the share of human votes that is expected to be wrong
    plan: list[Step]
    plan_words: str = ""  # what the number of prompts leaves
    notes: list[str] = field(default_factory=list)
    picked: Picked | None = None  # how labelled pairs without a stored propensity were chosen
    question: str = OVERALL  # what the votes of all this answer
    questions: list[Asked] = field(default_factory=list)  # every one that people answered, where there are several
    between: list[Between] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        record: dict[str, Any] = plain(asdict(self))
        return record


def audit(
    dataset: PreferenceDataset,
    run: str | Path | None = None,
    *,
    human_annotators: tuple[str, ...] | None = None,
    human_votes: int | None = None,
    propensity: Literal["given", "estimated"] = "given",
    most_suspects: int = 24,
    seed: int = 0,
    contexts: str = "words",
    question: str | None = None,
) -> Findings:
    """Audit the votes of a dataset on a question; where none is named, on the overall one, and say how others differ.
    Writes nothing but the cache of picture statistics.

    `run` is a run of an adaptive method; its minority metric then ranks the suspect votes. With propensity "estimated",
    pairs without a stored one count by the estimate, like the training key of this name. The other arguments are
    those of `read_evidence`. What cannot be measured is left out, with a note that says why. Raises PalateError for a
    dataset without pairs and a run without the metric.
    """
    asked = main_question(dataset) if question is None else question
    found = _audit_one(dataset, asked, run, human_annotators, human_votes, propensity, most_suspects, seed, contexts)
    others, between = audit_questions(dataset, asked, human_annotators, seed) if question is None else ([], [])
    if asked != OVERALL and found.recommendation.configuration:
        told = found.recommendation.configuration | {"question": asked}
        found = replace(found, recommendation=replace(found.recommendation, configuration=told))
    return replace(found, question=asked, questions=others, between=between)


def _audit_one(
    dataset: PreferenceDataset,
    question: str,
    run: str | Path | None,
    human_annotators: tuple[str, ...] | None,
    human_votes: int | None,
    propensity: str,
    most_suspects: int,
    seed: int,
    contexts: str,
) -> Findings:
    evidence = read_evidence(dataset, human_annotators, human_votes, seed, contexts, question)
    picked, evidence = find_picked(evidence, dataset, propensity == "estimated", seed)
    metric = None if run is None else read_metric(run, evidence.ids)
    people = audit_people(evidence, read_known_votes(dataset.path), seed)
    followed = evidence.of_people(people.agreeing) if people.opposed and people.agreeing else evidence
    judges, probabilities = audit_judges(followed, seed)
    reliability = {person.name: person.dawid_skene for person in people.persons}
    flip = flip_probabilities(evidence, predicted_votes(evidence, seed), reliability)
    human = followed.labels().human
    labelled, pairs = int((~np.isnan(human)).sum()), len(human)
    measured = {
        name: found
        for name, probability in probabilities.items()
        if (found := gain_and_draws(replace(followed.labels(), judge=probability), followed.group, seed))
    }
    gains = {name: gain for name, (gain, _) in measured.items()}
    named = name_a_row(gains, {name: draws for name, (_, draws) in measured.items()})
    square = float(np.nanmean((human - 0.5) ** 2)) if labelled else float("nan")
    person = a_person(followed.human, followed.group, 1 / followed.labels().propensity)
    along = [labels.judge - 0.5 for labels in map(followed.labels, followed.judges.names)]
    prompts = prompts_of(followed.group, human, np.column_stack([*along, followed.differences]))
    shown = leading(gains, first=named.name if named else "") | ({named.name: named.gain} if named else {})
    steps = plan(shown, labelled, pairs, square, prompts) if labelled else []
    notes = evidence.notes + people.notes
    if not evidence.judges.names:
        notes.append("No judge voted: nothing can stand in for human votes.")
    if unordered := [judge.name for judge in judges if judge.correction == "none" and judge.first is None]:
        notes.append(
            f"Position bias of {', '.join(unordered)}: the order in which the images were shown is not recorded"
            " (order_shown)."
        )
    advice = recommend(
        gains,
        choices_of(followed, seed),
        evidence.judges.names,
        labelled,
        pairs,
        people.opposed,
        people.agreeing,
        {} if contexts == "words" else {"contexts": contexts},
        named,
    )
    if picked and picked.used and advice.configuration.get("method") in ("dedpo", "auto"):
        advice = replace(advice, configuration=advice.configuration | {"propensity": "estimated"})
    return Findings(
        dataset=dataset.name,
        path=str(dataset.path),
        pairs=pairs,
        prompts=len(set(evidence.prompts)),
        labelled=int(evidence.labels().labelled.sum()),
        left_out=people.opposed if followed is not evidence else (),
        human_votes=len(evidence.human),
        judges=judges,
        people=people,
        person=person,
        ceiling=ceiling(person),
        skill_ceiling=min((person.value - 0.5) / 2 / square, 1.0) if person and person.value > 0.5 else None,
        recommendation=advice,
        suspects=suspects(evidence, flip, metric, most_suspects),
        suspects_by="flip probability" if run is None else "run",
        suspect_share=float(np.nanmean(flip)) if np.isfinite(flip).any() else None,
        plan=steps,
        plan_words=prompts_in_words(steps, prompts, square),
        notes=notes,
        picked=picked,
    )
