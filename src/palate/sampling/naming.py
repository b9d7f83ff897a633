"""The models that a verb is given."""

from collections.abc import Sequence
from pathlib import Path

from palate.errors import PalateError


def require_models(models: Sequence[str | Path], verb: str) -> None:
    """Raises PalateError when no model is named, or one twice: it would count as two."""
    if not models:
        raise PalateError(f"{verb}: no model is named. For example: palate {verb} runs/dpo (see --help).")
    places = [Path(model).resolve() for model in models]
    twice = [str(model) for model, place in zip(models, places, strict=True) if places.count(place) > 1]
    if twice:
        raise PalateError(f"{verb}: {' and '.join(twice)} are the same model. Name it once.")
