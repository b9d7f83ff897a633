"""Votes on the pictures: contests between the page's models, from datasets with pairs of their pictures."""

import json
from itertools import combinations
from pathlib import Path

from palate.data.dataset import open_dataset
from palate.errors import PalateError
from palate.evaluation.compare import Evaluated
from palate.evaluation.contest import Contest, Propensity, contest

STORED = "compare-votes.json"  # written into a run by `palate compare --votes`


def contests_of(
    models: list[Evaluated], votes: Path | None = None, judge: str | None = None
) -> tuple[list[Contest], list[str]]:
    """A contest for every two of these models on whose pictures people voted, the base first among opponents; and
    sentences on what is missing.

    `votes` is a dataset (`palate import samples`); when absent, those that `palate compare --votes` used of these
    models. Raises PalateError if the named dataset has no people's votes on pictures of two of the models.
    """
    named = {votes: (judge, False)} if votes else _stored([model.path for model in models])
    found: list[Contest] = []
    missing: list[str] = []
    for path, (who, weighed) in named.items():
        try:
            dataset = open_dataset(path)
        except PalateError:
            if votes:
                raise
            missing.append(f"Votes on these pictures are left out: the dataset {path} is not there any more.")
            continue
        reasons = []
        for b, a in combinations(models, 2):
            try:
                how: Propensity = "estimated" if weighed else "given"
                found.append(contest(a.samples, b.samples, dataset, judge or who, (a.name, b.name), how))
            except PalateError as error:
                reasons.append(str(error))
        if len(reasons) == len(models) * (len(models) - 1) // 2:
            if votes:
                raise PalateError(reasons[0])
            missing.append(f"Votes on these pictures are left out: {reasons[0]}")
    return found, missing


def _stored(models: list[Path]) -> dict[Path, tuple[str | None, bool]]:
    """Dataset -> judge, and whether propensities were estimated, as comparisons by votes recorded them."""
    found: dict[Path, tuple[str | None, bool]] = {}
    for model in models:
        path = model / STORED
        if path.is_file():
            try:
                told = json.loads(path.read_text(encoding="utf-8"))
                found.setdefault(Path(told["dataset"]), (told.get("judge"), bool(told.get("picked"))))
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                raise PalateError(
                    f"{path}: not what `palate compare --votes` writes. Delete it, or name the dataset: --votes"
                    " DATASET."
                ) from error
    return found
