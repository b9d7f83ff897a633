"""Full diffusion runs in the emoji world: few human votes and a judge, against votes on every pair.

python -m benchmarks.claims.emoji                    every condition, seed by seed; goes on where it stopped
python -m benchmarks.claims.emoji --questions flips  those of a question; --only all few-5 for some of them
python -m benchmarks.claims --tell                   docs/evidence.md from the results that are there

Results are one line per run in results/emoji.jsonl; where runs work (--folder) can be deleted.
"""

import argparse
import copy
import json
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import palate
from benchmarks.claims.emoji_world import FLIPS, PAIRS, Drift, judged, prepare
from benchmarks.claims.measure import commit
from palate.backbones import Backbone, load_backbone
from palate.data.schema import content_id
from palate.run.checkpoint import checkpoints, step_of
from palate.world import EMOJI

RESULTS = Path(__file__).parent / "results" / "emoji.jsonl"
MARKS = (30, 60)  # steps at which a run is measured
COMMON = {
    "pretrained_model_name_or_path": EMOJI, "human_annotators": ["majority"], "method": "dpo", "beta": 500.0, "learning_rate": 1e-4,
    "lr_scheduler": "constant", "train_batch_size": 16, "max_train_steps": MARKS[-1], "checkpointing_steps": MARKS[0],
    "checkpoints_total_limit": len(MARKS), "share_reference": True, "report_to": "none",
}  # fmt: skip
SHARES = {"5": PAIRS // 20, "12": PAIRS // 8, "25": PAIRS // 4, "50": PAIRS // 2}
FEW = SHARES["5"]
JUDGES = ("wrong-in-3", "own-errors")
HALF = {"labelled_per_batch": 8}  # of 16, what these runs had
RATES, BETAS = (5e-5, 2e-4, 4e-4), (100, 1000)  # that a user might pick: where the safeguard is compared
AS_IS = {"correction": "none", "hard_votes": True}  # what a pipeline that believes its judge does


def questions() -> dict[str, dict[str, dict[str, Any]]]:
    """question -> its conditions: name -> what its configuration adds. One of two questions has one name."""
    every: dict[str, Any] = {}
    few = {"human_votes": FEW}
    judges: dict[str, dict[str, Any]] = {"all": every, "few-5": few}
    for judge in JUDGES:
        beside = few | {"judge": judge}
        judges[f"mix/{judge}"] = {"method": "mix", **beside, **AS_IS}
        judges[f"dedpo/{judge}"] = {"method": "dedpo", **beside, **AS_IS}
        judges[f"auto/{judge}"] = {"method": "auto", **beside, **HALF}
    eighth = {"human_votes": SHARES["12"]}
    more = {"method": "auto", **eighth, "judge": JUDGES[0]}
    judges |= {"few-12": eighth, "auto-12/wrong-in-3": more | HALF}
    judges |= {"auto-12-faster/wrong-in-3": more | HALF | {"learning_rate": 2e-4}}  # soft targets move a model less
    judges |= {"auto-12-uniform/wrong-in-3": more | {"batches": "uniform"}}
    slower = {"learning_rate": 5e-5}
    scaling = {f"few-{share}": {"human_votes": count} for share, count in SHARES.items()}
    flips: dict[str, dict[str, Any]] = {"all": every}
    for people in ("flipped", "crowd"):
        votes = {"human_annotators": [people]}
        flips[f"dpo/{people}"] = votes
        flips[f"adaptive/{people}"] = votes | {"method": "adaptive-dpo"}
        flips[f"rdpo/{people}"] = votes | {"method": "rdpo", "flip_rate": FLIPS / 100}
    grid = {
        f"{name}-lr-{rate:.0e}-beta-{beta}": {"learning_rate": rate, "beta": float(beta)} | more
        for rate in RATES
        for beta in BETAS
        for name, more in {"dpo": {}, "sdpo": {"method": "sdpo", "safeguard": 0.9}}.items()
    }
    return {
        "judges": judges,
        "scaling": {"all": every} | scaling | {"all-slower": slower, "few-5-slower": slower | few},
        "flips": flips,
        "safeguard": grid,
    }


def conditions() -> dict[str, dict[str, Any]]:
    """Those of all questions, each once."""
    return {name: settings for of_one in questions().values() for name, settings in of_one.items()}


def key(name: str, seed: int) -> str:
    """A name for what is computed: the same settings, the same key."""
    told = json.dumps(COMMON | conditions()[name], sort_keys=True)
    return content_id("emoji", told, str(PAIRS), str(MARKS), str(seed))[:16]


def run(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train, and measure at every mark."""
    began, out = time.process_time(), folder / "runs" / key(name, seed)
    settings = (
        COMMON | conditions()[name] | {"dataset": str(prepare(folder, seed)), "output_dir": str(out), "seed": seed}
    )
    trained = palate.train(settings)
    backbone, drift, _ = base()
    network, curve = copy.deepcopy(backbone.network), []
    for path in checkpoints(out):
        network.load_state_dict(load_file(path / "weights.safetensors"))
        curve.append({"step": step_of(path), **judged(backbone, network.eval())[0], **drift.of(network)})
    last = trained.metrics[-1]
    told = {"key": key(name, seed), "condition": name, "seed": seed, "commit": commit(), "seconds": round(time.process_time() - began, 1),
            "labels": labels(out), "margin": round(last["rewards/margins"], 3), "curve": curve}  # fmt: skip
    shutil.rmtree(out)
    return rounded(told)


@cache
def base() -> tuple[Backbone, Drift, dict]:
    """The untrained model, the measure of drift from it, and what its pictures are worth."""
    torch.set_flush_denormal(True)
    backbone = load_backbone(EMOJI)
    told, pictures = judged(backbone, backbone.network)
    return backbone, Drift(backbone, pictures), told


def labels(out: Path) -> dict[str, Any]:
    """What the run says of its labels: how often judge and corrected judge agree with the votes, and the way chosen."""
    account = json.loads((out / "labels.json").read_text())
    told = {name: account[name]["accuracy"] for name in ("judge", "corrected judge") if account.get(name, {}).get("accuracy")}  # fmt: skip
    return told | {
        name: account[name] for name in ("power", "way", "chosen", "choice") if account.get(name) is not None
    }


def rounded(value: Any) -> Any:
    """The same with numbers of five places."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


def load(path: Path = RESULTS) -> dict[str, dict]:
    """key -> run, the last one where it was made again."""
    return {run["key"]: run for run in map(json.loads, path.read_text().splitlines())} if path.exists() else {}


def keep(told: dict, path: Path = RESULTS) -> None:
    """Add one run's results to the file: a line at once, so that two programs can write to it."""
    with open(path, "a") as file:
        file.write(json.dumps(told, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", nargs="+", default=list(questions()), choices=list(questions()))
    parser.add_argument("--only", nargs="+", default=list(conditions()), choices=list(conditions()), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--folder", type=Path, default=Path("claims-run/emoji"))
    options = parser.parse_args()
    asked = {name: None for question in options.questions for name in questions()[question] if name in options.only}
    todo = [(name, seed) for seed in options.seeds for name in asked]
    torch.set_num_threads(1)
    if "base" not in load():
        keep({"key": "base", "condition": "base", "commit": commit(), **rounded(base()[2])})
    for name, seed in todo:
        if key(name, seed) not in load():
            told = run(name, seed, options.folder)
            keep(told)
            print(f"{name}, seed {seed}: {[(c['step'], c['utility'], c['rise']) for c in told['curve']]}", flush=True)


if __name__ == "__main__":
    main()
