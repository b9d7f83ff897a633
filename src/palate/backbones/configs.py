"""The small JSON files of a pipeline folder, read with care: damaged files, and numbers that no model has, are refused
in one line before anything is built from them."""

from pathlib import Path
from typing import Any

from palate.errors import PalateError
from palate.files import read_object

LARGEST = 50_000_000  # bytes of a configuration or an index: those of large models have a few hundred thousand
MOST = 10_000_000  # largest whole number in a configuration: vocabularies have 300,000 entries
COUNTS = ("layers", "blocks", "heads")  # parts of the names of keys that count modules
MOST_MODULES = 10_000
SIZES = ("patch_size", "in_channels", "out_channels", "latent_channels")  # whole numbers in all known models
MOST_TIMESTEPS = 100_000  # 1,000 in all known models


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a model that holds one mapping. Raises PalateError, in one line, for everything else."""
    return read_object(path, "Download that folder again.", LARGEST)


def require_sane(path: Path, config: dict[str, Any]) -> None:
    """Raises PalateError for numbers that no model has, such as those of one that would not fit any machine."""
    for name in SIZES:
        value = config.get(name)
        sizes = value if isinstance(value, list) and value else [1 if value is None else value]
        if any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in sizes):
            raise PalateError(f"{path}: {name} is {str(value)[:20]!r}, no size. Download that folder again.")
    for name, value in _numbers(config):
        low = name.lower()
        most = MOST_TIMESTEPS if low == "num_train_timesteps" else MOST
        most = MOST_MODULES if any(word in low for word in COUNTS) else most
        if (
            abs(value) > most
            or (value < 0 and most == MOST_MODULES)
            or (value < 1 and low in ("num_train_timesteps", "latent_channels", "sample_size"))
        ):
            raise PalateError(f"{path}: {name} is {str(value)[:20]}, which no model has. Download that folder again.")


def _numbers(value: Any, name: str = "") -> list[tuple[str, int]]:
    """Every whole number in it, with the key it stands under."""
    if isinstance(value, dict):
        return [pair for key, one in value.items() for pair in _numbers(one, str(key))]
    if isinstance(value, list):
        return [pair for one in value for pair in _numbers(one, name)]
    return [(name, value)] if isinstance(value, int) and not isinstance(value, bool) else []
