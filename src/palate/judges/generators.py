"""Which model made each image of a pair: covariates of the corrected judge.

A column per model, +1 where it made image 0 and -1 where it made image 1. In a regularised logistic regression their
weights are Bradley-Terry strengths with a normal prior, beside the judge's logit, so that the strengths of the two
models are what is believed of a pair before the judge is asked. Cross-fitting fits them without the votes of the pair's
own prompt. Derived from ArenaPO (arXiv 2605.06070), whose abstract names a Gaussian strength per generator.
"""

import json

import numpy as np

from palate.arrays import Floats
from palate.data.dataset import PreferenceDataset
from palate.errors import PalateError


def generator_differences(dataset: PreferenceDataset, pair_ids: list[str]) -> tuple[Floats, tuple[str, ...]]:
    """Columns [N, G] of these pairs, and the names of the G models; a pair of one model, or of unknown ones, has zeros.

    Raises PalateError where the pairs' images are not known to come from two models.
    """
    table = dataset.pairs(columns=["pair_id", "generator_0", "generator_1"])
    made = {
        pair_id: (_model(first), _model(second))
        for pair_id, first, second in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    }
    known = [made.get(pair_id, (None, None)) for pair_id in pair_ids]
    names = sorted({name for pair in known if None not in pair and pair[0] != pair[1] for name in pair if name})
    if not names:
        raise PalateError(
            f"generator_strengths: {dataset.path} has no pair of images that two models made, by its columns"
            " generator_0 and generator_1. Remove generator_strengths."
        )
    place = {name: column for column, name in enumerate(names)}
    columns = np.zeros((len(pair_ids), len(names)))
    for row, pair in enumerate(known):
        for name, sign in zip(pair, (1.0, -1.0), strict=True):
            if None not in pair and name in place:
                columns[row, place[name]] += sign
    return columns, tuple(f"made by {name}" for name in names)


def _model(generator: str | None) -> str | None:
    """The model in a generator's JSON, or the text itself."""
    if not generator:
        return None
    try:
        told = json.loads(generator)
    except ValueError:
        return generator
    return str(told["model"]) if isinstance(told, dict) and told.get("model") else generator
