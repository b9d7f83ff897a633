"""Which models made the images of a pair, and what judges answer to the questions of a rubric, as covariates of the
corrected judge. Both are 0 where nothing is known, so that they say nothing there."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.data.dataset import PreferenceDataset
from palate.data.generators import compared_models, models_of_pairs
from palate.data.labels import collect_labels
from palate.data.questions import RUBRIC
from palate.judges.extra import Extra

MOST_MODELS = 64  # the others are too rare to learn anything of, as are those with fewer than
FEWEST_PAIRS = 10  # pairs beside another model


def extras_of(
    dataset: PreferenceDataset, pair_ids: Sequence[str], which: Sequence[str] = ("models", "rubric")
) -> list[Extra]:
    """The further covariates of these pairs [N]: those of `which` that the dataset has."""
    makers = {"models": models_of, "rubric": rubric_of}
    found = (makers[kind](dataset, pair_ids) for kind in which)
    return [extra for extra in found if extra is not None]


def models_of(dataset: PreferenceDataset, pair_ids: Sequence[str]) -> Extra | None:
    """1 in a model's column where it made image 0 and another model image 1, -1 the other way round, else 0; None where
    too few pairs compare two models. A model that is rare has no column."""
    models = models_of_pairs(dataset)
    compared: Counter[str] = compared_models({pair_id: models[pair_id] for pair_id in pair_ids})
    names = tuple(sorted(name for name, count in compared.most_common(MOST_MODELS) if count >= FEWEST_PAIRS))
    if not names:
        return None
    column = {name: k for k, name in enumerate(names)}
    values = np.zeros((len(pair_ids), len(names)))
    for row, pair_id in enumerate(pair_ids):
        one, two = models[pair_id]
        if one is None or two is None or one == two:
            continue
        for name, sign in ((one, 1.0), (two, -1.0)):
            if name in column:
                values[row, column[name]] = sign
    return Extra("models", names, values)


def rubric_of(dataset: PreferenceDataset, pair_ids: Sequence[str]) -> Extra | None:
    """2p - 1 of each judge's probability for image 0 on each question of its rubric; None without any such vote."""
    votes = dataset.votes(["pair_id", "annotator_id", "source", "choice", "probability", "question"], question=None)
    asked = pc.fill_null(votes["question"], "")
    votes = votes.filter(pc.and_(pc.starts_with(asked, RUBRIC), pc.equal(votes["source"], "judge")))
    told = votes.group_by(["annotator_id", "question"]).aggregate([]).to_pylist()
    couples = sorted((row["annotator_id"], row["question"]) for row in told)
    several = len({judge for judge, _ in couples}) > 1
    names, columns = [], []
    for judge, question in couples:
        own = votes.filter(pc.equal(votes["question"], question))
        here = pc.any(pc.is_in(own["pair_id"], pa.array(list(pair_ids), pa.string())), min_count=0).as_py()
        if not here:
            continue
        answer = collect_labels(pair_ids, own.filter(pc.equal(own["annotator_id"], judge)), judge=judge).judge
        columns.append(np.nan_to_num(2 * answer - 1))
        names.append(question.removeprefix(RUBRIC) + (f" ({judge})" if several else ""))
    return Extra("rubric", tuple(names), np.column_stack(columns)) if names else None
