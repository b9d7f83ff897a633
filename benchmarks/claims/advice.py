"""What `palate audit` would advise each seed to train with, given an eighth of the human votes and one judge."""

import json
from pathlib import Path

from benchmarks.claims.conditions import ADVISED, FRACTIONS, JUDGES, PEOPLE
from palate.audits.advice import Recommendation, recommend
from palate.audits.evidence import read_evidence
from palate.audits.judges import audit_judges
from palate.data.dataset import open_dataset
from palate.files import write_text

FILE = "advice.json"


def advise(dataset_folder: Path, seed: int) -> dict[str, str]:
    """judge -> the condition that the audit's recommendation comes to, on the votes that this seed trains on."""
    count = FRACTIONS["12"]
    evidence = read_evidence(open_dataset(str(dataset_folder)), tuple(PEOPLE), count, seed)
    judges, _ = audit_judges(evidence, seed)
    pairs = len(evidence.ids)
    return {
        name: condition(
            recommend({f"{j.name}/{j.correction}": j.gain for j in judges if j.gain and j.name == name}, (name,), count, pairs), name
        )
        for name in JUDGES
    }  # fmt: skip


def condition(advice: Recommendation, judge: str) -> str:
    """The name of the condition with the advised configuration."""
    if advice.configuration["method"] == "dpo":
        return "human-12"
    correction = advice.configuration["correction"]
    return f"{ADVISED[correction]}-12/{judge}" if correction in ADVISED else f"corrected-dedpo-12/{judge}"


def remember(out: Path, advised: dict[int, dict[str, str]]) -> dict[int, dict[str, str]]:
    """Add the advice of some seeds to what is kept in `out`; returns all of it."""
    everything = {**read_advice(out), **advised}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / FILE, json.dumps({str(seed): everything[seed] for seed in sorted(everything)}, indent=1) + "\n")
    return everything


def read_advice(out: Path) -> dict[int, dict[str, str]]:
    """seed -> judge -> condition."""
    path = out / FILE
    return {int(seed): told for seed, told in json.loads(path.read_text()).items()} if path.exists() else {}
