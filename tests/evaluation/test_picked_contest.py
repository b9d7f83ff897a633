"""A contest on pairs that people picked: what they picked by is taken out, and said."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit
from tiny import picture_bytes

from palate.data.dataset import PreferenceDataset
from palate.data.shards import write_table
from palate.errors import PalateError
from palate.evaluation.contest import contest_of_generators
from palate.verbs.models import compare

PAIRS = 900


def dataset_of(folder, seed: int) -> tuple[PreferenceDataset, float]:
    """People like warmth; they labelled pairs in which a's picture is the warmer one. Image 0 is a's in half of them."""
    rng = np.random.default_rng(seed)
    image = {"bytes": picture_bytes(rng, 8, 8, "PNG"), "path": None}
    warmth, other = rng.normal(size=PAIRS), rng.normal(size=PAIRS)
    truth = expit(1.2 * warmth + 0.3)
    shown = rng.random(PAIRS) < expit(1.2 * warmth - 1.6)
    wins, turned, judge = rng.random(PAIRS) < truth, rng.random(PAIRS) < 0.5, expit(0.5 * warmth + other)
    dataset = PreferenceDataset.create(folder, name="contest")
    ids = [f"p{i:03}" for i in range(PAIRS)]
    models = ("one", "two")
    dataset.add_pairs(
        {"pair_id": p, "prompt": f"prompt {i // 3}", "image_0": image, "image_1": image,
         "generator_0": {"model": models[t]}, "generator_1": {"model": models[1 - t]}}
        for i, (p, t) in enumerate(zip(ids, turned.tolist(), strict=True))
    )  # fmt: skip
    dataset.append_votes(
        [{"vote_id": f"h{p}", "pair_id": p, "annotator_id": "ana", "source": "human", "choice": "0" if w != t else "1"}
         for p, w, t, r in zip(ids, wins, turned, shown, strict=True) if r]
        + [{"vote_id": f"j{p}", "pair_id": p, "annotator_id": "judge", "source": "judge",
            "choice": "0" if (g > 0.5) != t else "1", "probability": float(1 - g if t else g)}
           for p, g, t in zip(ids, judge, turned, strict=True)]
    )  # fmt: skip
    side = np.where(turned, -1.0, 1.0)
    write_table(
        dataset.path / "cache" / "statistics.parquet",
        pa.table({"pair_id": ids, "warmth": side * warmth, "contrast": side * other}),
    )
    return dataset, float(truth.mean())


def test_a_contest_of_picked_pairs_is_set_right_and_says_how_they_were_picked(tmp_path, capsys):
    errors, covered = {"given": [], "estimated": []}, 0
    for seed in range(3):
        dataset, truth = dataset_of(tmp_path / str(seed), seed)
        for how in ("given", "estimated"):
            found = contest_of_generators("one", "two", dataset, propensity=how)
            errors[how].append([found.human.rate - truth, found.powered.rate - truth])
        covered += found.powered.low <= truth <= found.powered.high
    given, estimated = (np.mean(errors[how], axis=0) for how in ("given", "estimated"))
    assert (given > 0.08).all() and (np.abs(estimated) < 0.045).all() and covered >= 2
    found.show()
    told = capsys.readouterr().out
    assert "labelled pairs were not drawn at random" in told and "in warmth of a over b +" in told
    assert "taken as drawn at random" not in told and found.as_dict()["picked"] == list(found.picked)
    turned = contest_of_generators("two", "one", dataset, propensity="estimated")
    assert turned.powered.rate == pytest.approx(1 - found.powered.rate, abs=1e-6)


def test_the_option_needs_votes(tmp_path):
    with pytest.raises(PalateError, match="--propensity is that of people's pairs in --votes"):
        compare(tmp_path, propensity="estimated")
