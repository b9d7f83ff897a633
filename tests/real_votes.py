"""Real votes of people on pairs without pictures (tifa160), as lines of JSON to import; beside the checkout."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from shared import SHARED

TIFA160 = SHARED / "data/real-votes/tifa160"
needs_tifa160 = pytest.mark.skipif(not TIFA160.is_dir(), reason="the real votes are no part of the project")


def tifa160_lines(file: Path, judges: tuple[str, ...] = (), probabilities: bool = True) -> Path:
    """Write the pairs with all people's votes, and those of these judges, to `file`."""
    pairs = {row["pair_id"]: row for row in _rows("pairs.csv")}
    with open(file, "w", encoding="utf-8") as out:
        for vote in _rows("votes.csv"):
            if vote["source"] == "judge" and vote["annotator_id"] not in judges:
                continue
            about = pairs[vote["pair_id"]]
            numbers = ("score_0", "score_1", *(("probability",) if probabilities else ()))
            line = {name: about[name] for name in ("pair_id", "prompt", "generator_0", "generator_1")}
            line |= {name: vote[name] for name in ("source", "annotator_id", "choice")}
            line |= {name: float(vote[name]) for name in numbers if vote[name]}
            out.write(json.dumps(line) + "\n")
    return file


def _rows(name: str) -> list[dict[str, str]]:
    with open(TIFA160 / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tifa160_votes(judges: tuple[str, ...]) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    """Mean votes of people [N], the probabilities of these judges [N], and the prompts [N]."""
    pairs = _rows("pairs.csv")
    place = {row["pair_id"]: k for k, row in enumerate(pairs)}
    total, count = np.zeros(len(pairs)), np.zeros(len(pairs))
    found = {name: np.full(len(pairs), np.nan) for name in judges}
    for vote in _rows("votes.csv"):
        k, said = place[vote["pair_id"]], {"0": 1.0, "1": 0.0, "tie": 0.5}[vote["choice"]]
        if vote["source"] == "human":
            total[k], count[k] = total[k] + said, count[k] + 1
        elif vote["annotator_id"] in found:
            found[vote["annotator_id"]][k] = float(vote["probability"]) if vote["probability"] else said
    return total / count, found, [row["prompt"] for row in pairs]
