"""What the targets of the emoji runs are worth before any training: how well they point where the truth does.

python -m benchmarks.claims.emoji_labels     results/emoji_labels.json, minutes
"""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from benchmarks.claims.emoji import AS_IS, COMMON, JUDGES, SHARES
from benchmarks.claims.emoji_world import PAIRS, VOTERS, pairs_of, pool, prepare, taken
from palate.backbones import load_backbone
from palate.data.dataset import open_dataset
from palate.files import write_text
from palate.labels.votes import prepare_rows
from palate.run.load import load_config
from palate.world import EMOJI
from palate.world.emoji_measure import EmojiMeasurement, measure_emoji

RESULTS = Path(__file__).parent / "results" / "emoji_labels.json"
SEEDS = range(5)
WAYS: dict[str, dict[str, Any]] = {"mix": {"method": "mix", **AS_IS}, "dedpo": {"method": "dedpo", **AS_IS}, "auto": {"method": "auto"}}  # fmt: skip


def truth(shown: EmojiMeasurement, seed: int) -> np.ndarray:
    """P(a person prefers image 0) of every pair of a seed, [PAIRS]."""
    voter, pairs = VOTERS["majority"], pairs_of(seed, PAIRS)
    first, second = (voter.utility(taken(shown, [pair[side] for pair in pairs])) for side in (0, 1))
    return expit((first - second) / voter.temperature)


def worth(target: np.ndarray, weight: np.ndarray, chance: np.ndarray) -> dict[str, float]:
    """Targets [N] with weights [N] against P(image 0 is preferred) [N]: the share of used pairs whose target favours
    what people do, and the cosine between the pull at the start, weight * (target - 1/2), and that of the truth."""
    pull, true, used = weight * (target - 0.5), chance - 0.5, weight > 0
    right = np.sign(target[used] - 0.5) == np.sign(true[used])
    return {"right": float(right.mean()), "cosine": float(pull @ true / np.sqrt((pull @ pull) * (true @ true)))}


def labelled(folder: Path, seed: int, chance: np.ndarray, settings: dict[str, Any]) -> dict[str, Any]:
    """The worth of the targets that a configuration trains on, and the way that was chosen."""
    path = prepare(folder, seed)
    config = load_config(COMMON | settings | {"dataset": str(path), "output_dir": "none", "seed": seed})
    with contextlib.redirect_stdout(io.StringIO()):
        rows = prepare_rows(open_dataset(str(path)), config)
    place = [int(row_id.split("-")[1]) for row_id in rows.id]
    target, weight = np.full(PAIRS, 0.5), np.zeros(PAIRS)
    target[place], weight[place] = rows.target, rows.weight
    return worth(target, weight, chance) | {"way": rows.account.get("choice", {}).get("way")}


def main(folder: Path = Path("claims-run/emoji")) -> None:
    names, pictures = pool(folder, load_backbone(EMOJI))
    shown, found = measure_emoji(pictures, names), []
    for seed in SEEDS:
        chance = truth(shown, seed)
        asked: dict[tuple[str, int, str], dict[str, Any]] = {("all", PAIRS, ""): {}}
        for count in (SHARES["5"], SHARES["12"]):
            asked[("alone", count, "")] = {"human_votes": count}
            for judge in JUDGES:
                beside = {"human_votes": count, "judge": judge}
                asked |= {(way, count, judge): beside | settings for way, settings in WAYS.items()}
        for (way, count, judge), settings in asked.items():
            told = labelled(folder, seed, chance, settings)
            found.append({"seed": seed, "way": way, "votes": count, "judge": judge, "right": round(told["right"], 4),
                          "cosine": round(told["cosine"], 4), "chosen": told["way"]})  # fmt: skip
    write_text(RESULTS, "[\n" + ",\n".join(json.dumps(one) for one in found) + "\n]\n")


if __name__ == "__main__":
    main()
