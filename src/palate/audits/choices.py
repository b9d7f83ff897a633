"""Which way `method: auto` would train with each judge and with all of them together, by the same function as a run."""

from dataclasses import replace

import numpy as np

from palate.audits.evidence import Evidence
from palate.audits.planning import ALL
from palate.judges.choice import Choice
from palate.judges.contexts import one_context
from palate.judges.correction import combine
from palate.judges.ways import Seen, choose, resolution_of


def choices_of(evidence: Evidence, seed: int = 0) -> dict[str, Choice]:
    """The choice by judge's name, and of all judges together, if there are several; none without a human vote."""
    people = evidence.labels()
    if not people.labelled.any():
        return {}
    names = evidence.judges.names
    ids = [evidence.ids[i] for i in np.flatnonzero(people.labelled)]
    resolution = resolution_of(ids, evidence.table)
    kinds = evidence.contexts or one_context(len(evidence.ids))
    seen = Seen(
        evidence.fitted, evidence.differences, evidence.statistics, evidence.directions, evidence.prompts, kinds,
        tuple(evidence.extras),
    )  # fmt: skip
    columns = [evidence.labels(name).judge for name in names]
    alone = {name: (columns[j], replace(seen, fitted=seen.fitted[:, [j]]), (name,)) for j, name in enumerate(names)}
    together = {ALL: (combine(np.column_stack(columns)), seen, names)} if len(names) > 1 else {}
    return {
        name: choose(replace(people, judge=judge), own, who, resolution, seed)[0]
        for name, (judge, own, who) in (alone | together).items()
    }
