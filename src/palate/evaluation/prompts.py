"""Prompt suites: a list of prompts from a file, or the small world's, with a hash that goes into every result."""

import csv
import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq

from palate.errors import PalateError

COLUMNS = ("prompt", "caption", "text", "Prompt")  # names under which suites keep their prompts


def load_prompts(source: str | Path) -> list[str]:
    """Prompts of a file (.txt one a line, .json, .jsonl, .csv, .tsv, .parquet), or of the small world for "world".

    Tables and objects are read at the first of the columns prompt, caption, text. Raises PalateError when the file is
    missing, of another kind, broken, or without prompts.
    """
    if str(source) == "world":
        from palate.world.pictures import PROMPTS

        return list(PROMPTS)
    path = Path(source)
    try:
        prompts = [prompt.strip() for prompt in _read(path)]
    except OSError as error:
        raise PalateError(f"{path}: {error.strerror}. Give a file of prompts, or 'world'.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PalateError(
            f"{path}: not a list of prompts ({error}). Use one prompt a line, or a column 'prompt'."
        ) from error
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise PalateError(f"{path}: no prompts in it.")
    return prompts


def prompts_hash(prompts: list[str]) -> str:
    """A short hash of the prompts in their order."""
    return hashlib.sha256("\x1f".join(prompts).encode()).hexdigest()[:12]


def _read(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return [_prompt(row) for row in pq.read_table(path).to_pylist()]
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return [_prompt(row) for row in json.loads(text)]
    if path.suffix == ".jsonl":
        return [_prompt(json.loads(line)) for line in text.splitlines() if line.strip()]
    if path.suffix in (".csv", ".tsv"):
        return [
            _prompt(row) for row in csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")
        ]
    if path.suffix == ".txt":
        return text.splitlines()
    raise ValueError(f"files of kind {path.suffix or 'without ending'} are not read")


def _prompt(row: dict | str) -> str:
    if isinstance(row, str):
        return row
    column = next((name for name in COLUMNS if name in row), None)
    if column is None:
        raise ValueError(f"no column {' or '.join(COLUMNS[:3])} among {', '.join(row)}")
    return row[column]
