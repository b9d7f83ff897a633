"""Runs the demo with other seeds, and keeps what they gained for `demo_seeds`: about four minutes of two cores each.

python -m palate.demos.demo_repeat --seeds 1 2 3 4 5
"""

import argparse
import json
from pathlib import Path

from palate.demos.demo import FULL, demo, settings_of_demo
from palate.demos.demo_seeds import KEPT, read_kept
from palate.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--out", type=Path, default=Path("demo-seeds"), help="where the demos are made")
    options = parser.parse_args()
    settings = settings_of_demo(FULL)
    kept = {str(seed): gains for seed, gains in read_kept(settings, -1).items()}
    for seed in options.seeds:
        demo(options.out / str(seed), seed=seed)
        found = json.loads((options.out / str(seed) / "gains.json").read_text(encoding="utf-8"))
        kept[str(seed)] = {row: [round(gain, 3) for gain in own] for row, own in found.items()}
        told = {
            "command": "python -m palate.demos.demo_repeat",
            "settings": settings,
            "seeds": dict(sorted(kept.items(), key=lambda one: int(one[0]))),
        }
        write_text(KEPT, json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
