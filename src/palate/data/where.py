"""Conditions on the columns of pairs, as `where` gives them: COLUMN OPERATOR VALUE."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.arrays import Bools
from palate.data.dataset import PreferenceDataset
from palate.data.schema import IMAGE_COLUMNS, PAIRS
from palate.errors import PalateError, did_you_mean

COLUMNS = tuple(name for name in PAIRS.names if name not in IMAGE_COLUMNS)
TEXT = {"contains", "lacks", "is", "is not"}
NUMBER = {"<", "<=", ">", ">=", "is", "is not"}
_FORM = re.compile(r"\s*(\w+)\s+(contains|lacks|is not|is|<=|>=|<|>)\s+(.*\S)\s*", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """One condition on a column of the pairs."""

    column: str
    operator: str
    value: str | float


def condition(text: str) -> Condition:
    """The condition that a text states. Raises PalateError, showing the right form, for one that can't be read."""
    found = _FORM.fullmatch(text)
    if not found:
        raise PalateError(
            f"where: {text!r} is no condition; write COLUMN contains TEXT, or lacks, is, is not, <, <=, >, >=, as in "
            "`generator_0 contains dreamlike`."
        )
    column, operator, value = found.groups()
    if column not in COLUMNS:
        raise PalateError(f"where: pairs have no column {column!r}{did_you_mean(column, COLUMNS)}")
    numeric = pa.types.is_floating(PAIRS.field(column).type)
    if operator not in (NUMBER if numeric else TEXT):
        other = ", ".join(sorted(NUMBER if numeric else TEXT))
        raise PalateError(f"where: {column} is {'a number' if numeric else 'text'}; it goes with {other}.")
    if not numeric:
        return Condition(column, operator, value)
    try:
        return Condition(column, operator, float(value))
    except ValueError:
        raise PalateError(f"where: {column} is a number, and {value!r} is none.") from None


def fulfil(dataset: PreferenceDataset, conditions: Sequence[str]) -> Bools:
    """[N] bool: the pairs of the dataset, in stored order, that fulfil all conditions.

    Letters count the same in upper and lower case for contains and lacks. A pair without a value in the column fulfils
    `lacks` and `is not` alone. Raises PalateError for a condition that can't be read, or when no pair fulfils all.
    """
    parsed = [condition(text) for text in conditions]
    table = dataset.pairs(list(dict.fromkeys(["pair_id", *(one.column for one in parsed)])))
    kept = np.ones(len(table), bool)
    for text, one in zip(conditions, parsed, strict=True):
        kept &= _fulfils(table[one.column], one)
        if not kept.any():
            raise PalateError(f"where: no pair of {dataset.path} fulfils {text!r} (and those before it). Change it.")
    return kept


def _fulfils(column: pa.ChunkedArray, one: Condition) -> Bools:
    if one.operator in ("contains", "lacks"):
        found = pc.match_substring(column, str(one.value), ignore_case=True)
    else:
        compare = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
        found = compare.get(one.operator, pc.equal)(column, one.value)
    holds: Bools = pc.fill_null(found, False).to_numpy().astype(bool)
    return ~holds if one.operator in ("lacks", "is not") else holds
