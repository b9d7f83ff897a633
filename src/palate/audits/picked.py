"""How the labelled pairs were chosen, where nothing says it: at random, by what is seen, and whether it matters."""

from dataclasses import dataclass, field, replace

import numpy as np

from palate.arithmetic import bounded_logit
from palate.audits.evidence import Evidence
from palate.audits.intervals import Estimate, share_estimate
from palate.data.dataset import PreferenceDataset
from palate.judges.correction import combine
from palate.judges.propensity import (
    FEWEST,
    Balance,
    Selection,
    estimate_propensity,
    generators_of_pairs,
    seen_of_pairs,
    votes_related,
)


@dataclass(frozen=True)
class Picked:
    """What can be seen of the choice of the labelled pairs that have no stored propensity."""

    labelled: int
    pairs: int
    auc: float  # how well labelled pairs are told from others, on prompts that were not seen
    chance: float  # p-value of drawn at random
    related: float | None  # p-value of votes that are the same where more pairs were labelled; None: not measurable
    least: float  # propensity
    floor: float  # to which propensities are clipped
    below: float  # share of all pairs that were
    effective: float  # as many labelled pairs, weighted alike, would be as precise
    heaviest: float  # share of the weight of one pair
    balance: list[Balance]  # features that differ most, before and after weighting
    agreement: dict[str, tuple[Estimate, Estimate]]  # judge: with people on the labelled pairs, on all as estimated
    used: bool  # whether this audit's numbers are weighted by it
    sentences: list[str] = field(default_factory=list)


def find_picked(
    evidence: Evidence, dataset: PreferenceDataset, used: bool, seed: int = 0
) -> tuple[Picked | None, Evidence]:
    """How the labelled pairs without a stored propensity were chosen, and the evidence, with the estimated propensities
    in it where they are to be `used`.

    None where every pair has one, where none or all of the others have a human vote, and where they are too few.
    Raises PalateError for too few where the estimate is to be used.
    """
    unknown = np.isnan(evidence.propensity)
    labelled = evidence.labels().labelled[unknown]
    if not labelled.any() or labelled.all():
        if used:
            evidence.notes.append(
                "There is no propensity to estimate: no pair without a stored one is left to vote on."
            )
        return None, evidence
    if not used and min(labelled.sum(), (~labelled).sum()) < FEWEST:
        return None, evidence
    place = np.flatnonzero(unknown)
    ids = [evidence.ids[i] for i in place.tolist()]
    judges, contexts = evidence.fitted[place], evidence.contexts
    seen = seen_of_pairs(
        evidence.differences[place], evidence.statistics, judges, evidence.judges.names,
        [evidence.prompts[i] for i in place.tolist()], labelled=labelled, directions=evidence.directions[place],
        contexts=None if contexts is None else replace(contexts, place=contexts.place[place]),
        made_by=generators_of_pairs(dataset, ids),
    )  # fmt: skip
    selection = estimate_propensity(seen, labelled, evidence.group[place], seed)
    propensity = evidence.propensity.copy()
    propensity[place] = selection.propensity
    weighted = replace(evidence, propensity=propensity)
    sides = evidence.differences[place]
    if judges.shape[1]:
        sides = np.column_stack([np.nan_to_num(bounded_logit(combine(judges))), sides])
    related = None
    if sides.shape[1]:
        votes = evidence.labels().human[place] - 0.5
        found = votes_related(selection, labelled, votes, sides, evidence.group[place])[0]
        related = None if np.isnan(found) else found
    return _picked(evidence, weighted, selection, related, used), weighted if used else evidence


def _picked(evidence: Evidence, weighted: Evidence, selection: Selection, related: float | None, used: bool) -> Picked:
    told = selection.sentences()
    if related is not None and not selection.at_random:
        told.append(
            f"Votes differ with it (p {'< 0.001' if related < 0.001 else f'{related:.2g}'}): labelled pairs alone do "
            "not show what people say of all pairs."
            if related < 0.05
            else f"Votes are not seen to differ with it (p {related:.2g})."
        )
    if not selection.at_random:
        told.append(
            "All numbers of this audit are weighted by it."
            if used
            else "Train with propensity: estimated, and see these numbers for all pairs with palate audit --propensity "
            "estimated."
        )
        told.append(
            "It is right only if whoever chose the pairs chose by what is seen here. Votes on some pairs that palate "
            "label draws are right in any case."
        )
    agreement = {}
    for name in evidence.judges.names:
        alike, all_pairs = _agreement(evidence, name), _agreement(weighted, name)
        if alike is not None and all_pairs is not None:
            agreement[name] = alike, all_pairs
    return Picked(
        selection.labelled, selection.pairs, selection.auc, selection.chance, related,
        float(selection.propensity.min()), selection.floor, selection.below, selection.effective, selection.largest,
        list(selection.balance[:6]), agreement, used, told,
    )  # fmt: skip


def _agreement(evidence: Evidence, name: str) -> Estimate | None:
    labels = evidence.labels(name)
    both = labels.labelled & ~np.isnan(labels.judge)
    credit = 0.5 + np.sign(2 * labels.judge[both] - 1) * (labels.human[both] - 0.5)
    return share_estimate(credit, evidence.group[both], 1 / labels.propensity[both])
