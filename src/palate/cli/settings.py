"""The values of `--set key=value`."""

from collections.abc import Iterable
from typing import Any

import yaml

from palate.errors import PalateError


def settings(given: Iterable[str], form: str = "key=value") -> dict[str, Any]:
    """Keys and values, each value read as in a YAML file. Raises PalateError for what has no key or no `=`, saying the
    `form`."""
    found = {}
    for pair in given:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise PalateError(f"--set {pair!r}: write it as {form}.")
        found[key] = yaml.safe_load(text) if text else ""
    return found
