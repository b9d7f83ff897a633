"""What a caller may give in several forms, as the rooms take it: paths, datasets, lists that may be one thing."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypeAlias, Union

if TYPE_CHECKING:
    from palate.data.dataset import PreferenceDataset
    from palate.sampling.prompts import Suite

Place: TypeAlias = str | PathLike[str]  # a path; a run and a folder of samples are one, too
Places: TypeAlias = Place | Sequence[Place]
Dataset: TypeAlias = Union[Place, "PreferenceDataset"]
Prompts: TypeAlias = Union[Place, Iterable[str], "Suite"]


def places(given: Places) -> list[str]:
    """One path or several, as a list of text."""
    return [fspath(given)] if isinstance(given, str | PathLike) else [fspath(one) for one in given]


def names(given: str | Iterable[str], *, split: bool = False) -> tuple[str, ...]:
    """One name or several; with `split` one text may hold several between commas, as in "ana,bo,chen"."""
    if not isinstance(given, str):
        return tuple(given)
    parts = given.split(",") if split else [given]
    return tuple(name.strip() for name in parts) if given.strip() else ()


def opened(dataset: Dataset) -> "PreferenceDataset":
    """The dataset in a folder, or the one that is open already. Raises PalateError where there is none."""
    from palate.data.dataset import PreferenceDataset, open_dataset

    return dataset if isinstance(dataset, PreferenceDataset) else open_dataset(fspath(dataset))


def folder_of(dataset: Dataset) -> str:
    """The folder of a dataset."""
    return fspath(dataset) if isinstance(dataset, str | PathLike) else str(dataset.path)


def plain_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a configuration with paths, runs and open datasets as the text that a file would have."""
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, PathLike):
        return fspath(value)
    return str(value.path) if hasattr(value, "iter_pairs") else value


def without_none(**values: Any) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in values.items() if value is not None}
