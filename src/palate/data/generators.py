"""What made the images of a pair: the models' names, as the pairs table has them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from palate.data.dataset import PreferenceDataset
from palate.reading import parse_json


def model_of(generator: str | None) -> str | None:
    """The name of the model in a generator of the pairs table: `model` of its JSON, or its text where it is none."""
    if generator is None:
        return None
    try:
        told: Any = parse_json(generator)
    except ValueError:
        told = None
    if not isinstance(told, Mapping):
        return generator.strip() or None
    name = told.get("model")
    return None if name is None else str(name)


def models_of_pairs(dataset: PreferenceDataset) -> dict[str, tuple[str | None, str | None]]:
    """pair_id -> the models that made image 0 and image 1, None where that is not known."""
    rows = dataset.pairs(["pair_id", "generator_0", "generator_1"])
    columns = [rows[name].dictionary_encode().combine_chunks() for name in ("generator_0", "generator_1")]
    names = [[model_of(text) for text in column.dictionary.to_pylist()] for column in columns]
    sides = [
        [None if code is None else own[code] for code in column.indices.to_pylist()]
        for column, own in zip(columns, names, strict=True)
    ]
    return dict(zip(rows["pair_id"].to_pylist(), zip(*sides, strict=True), strict=True))


def compared_models(models: Mapping[str, tuple[str | None, str | None]]) -> Counter[str]:
    """How many pairs show each model beside another one."""
    return Counter(name for one, two in models.values() if one and two and one != two for name in (one, two))
