"""The small JSON files of a pipeline folder, read with care: a damaged one is refused in a line, and so are numbers
that no model has, before anything is built by them."""

import json
from pathlib import Path
from typing import Any

from palate.errors import PalateError

LARGEST = 50_000_000  # bytes of a configuration or an index: those of large models have a few hundred thousand
MOST = 10_000_000  # for any whole number in a configuration: vocabularies have 300,000 entries
COUNTS = ("layers", "blocks", "heads")  # in names of keys whose numbers are of modules
MOST_MODULES = 10_000
MOST_TIMESTEPS = 100_000  # 1,000 in every model there is


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one mapping. Raises PalateError, in one line, for everything else."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path.stat().st_size:,} bytes, which no such file has")
        told = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(told, dict):
            raise ValueError(f"a {type(told).__name__}, not a mapping")
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
        raise PalateError(
            f"{path}: missing or not readable ({reason or type(error).__name__}). Download that folder again."
        ) from error
    return told


def require_sane(path: Path, config: dict[str, Any]) -> None:
    """Raises PalateError for numbers that no model has: what they would build does not fit any machine."""
    for name, value in _numbers(config):
        low = name.lower()
        most = MOST_TIMESTEPS if low == "num_train_timesteps" else MOST
        most = MOST_MODULES if any(word in low for word in COUNTS) else most
        if abs(value) > most or (value < 1 and low in ("num_train_timesteps", "latent_channels", "sample_size")):
            raise PalateError(f"{path}: {name} is {str(value)[:20]}, which no model has. Download that folder again.")


def _numbers(value: Any, name: str = "") -> list[tuple[str, int]]:
    """Every whole number in it, with the key it stands under."""
    if isinstance(value, dict):
        return [pair for key, one in value.items() for pair in _numbers(one, str(key))]
    if isinstance(value, list):
        return [pair for one in value for pair in _numbers(one, name)]
    return [(name, value)] if isinstance(value, int) and not isinstance(value, bool) else []
