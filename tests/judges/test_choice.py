"""The way chosen by risk: what it says of ways is what a simulation gives, and it leaves useless judges out."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from palate.data.labels import Labels
from palate.errors import PalateError
from palate.judges.choice import RESIDUALS, RESOLUTION, choose_way
from palate.judges.ways import Resolution, resolution_of


def seen(seed: int, votes: int, own: float = 0.0, pairs: int = 1000) -> tuple[Labels, np.ndarray]:
    """Labels of pairs whose judge has an error of its own of this size, and its calibrated probabilities."""
    rng = np.random.default_rng(seed)
    utility = 1.9 * rng.normal(size=pairs)
    human = (rng.random(pairs) < expit(utility)).astype(float)
    human[rng.permutation(pairs)[votes:]] = np.nan
    said = utility + own * rng.normal(size=pairs)
    calibrated = expit(said * 1.9**2 / (1.9**2 + own**2))
    return Labels(human, calibrated, np.full(pairs, votes / pairs)), calibrated


def test_a_good_judge_is_followed_and_noise_is_not():
    for seed in range(5):
        labels, calibrated = seen(seed, 64)
        good = choose_way(labels, {"calibrate": calibrated}, contexts=6)
        assert good.chosen.correction == "calibrate" and good.chosen.residual < 1
        assert good.chosen.share > good.alone.share + 0.1 and "human votes alone" in good.sentence()
        noise = np.random.default_rng(seed + 100).random(1000)
        bad = choose_way(labels, {"none": noise}, contexts=6)
        assert bad.chosen.share >= bad.alone.share - 0.02 and bad.chosen.residual >= 0.5


def test_more_votes_keep_more_of_the_residual_and_raise_what_they_gain_alone():
    kept, alone = [], []
    for votes in (48, 192, 768):
        choices = [
            choose_way(labels, {"calibrate": g}, contexts=6) for labels, g in (seen(s, votes, 2.0) for s in range(8))
        ]
        kept.append(np.mean([choice.chosen.residual for choice in choices]))
        alone.append(choices[0].alone.share)
    assert alone == sorted(alone) and kept[0] < kept[2] and alone[-1] < 1


def test_the_estimate_is_the_cosine_that_a_simulation_gives():
    """Gradients of P parts, each pair telling of one of them: the mean cosine over draws of the votes."""
    parts, pairs, votes, rng = 40, 2000, 200, np.random.default_rng(0)
    part, side = rng.integers(parts, size=pairs), np.sign(rng.normal(size=pairs))
    taste, error = rng.normal(size=parts), rng.normal(size=parts)
    q, g = (expit(side * x[part]) for x in (1.5 * taste, taste + error))
    direction = np.bincount(part, side * (q - 0.5), parts)
    shares = {}
    for residual in RESIDUALS:
        found = []
        for _ in range(40):
            shown = rng.permutation(pairs) < votes
            moved = g - 0.5 + residual * pairs / votes * shown * ((rng.random(pairs) < q) - g)
            pull = np.bincount(part, side * moved, parts)
            found.append(pull @ direction / np.linalg.norm(pull) / np.linalg.norm(direction))
        shares[residual] = np.mean(found)
    resolution = float(np.mean((q - 0.5) ** 2))
    whole = 1 / np.sqrt(1 + parts * 0.25 / pairs / resolution)
    told: dict[float, list[float]] = {residual: [] for residual in RESIDUALS}
    for _ in range(20):
        few = np.where(rng.permutation(pairs) < votes, (rng.random(pairs) < q).astype(float), np.nan)
        labels = Labels(few, g, np.full(pairs, votes / pairs))
        for way in choose_way(labels, {"none": g}, contexts=5, resolution=resolution, spread=0.0).ways:
            if way.correction and way.power == 1:
                told[way.residual].append(way.share * whole)
    for residual in RESIDUALS:
        assert np.mean(told[residual]) == pytest.approx(shares[residual], abs=0.04), residual


def test_without_votes_there_is_nothing_to_choose_by():
    nothing = np.full(20, np.nan)
    with pytest.raises(PalateError, match="no human vote|no pair has a human vote"):
        choose_way(Labels(nothing, np.full(20, 0.6), np.full(20, 0.5)), {"none": np.full(20, 0.6)})


def votes_of(*rows: tuple[str, str, str], source: str = "human") -> pa.Table:
    """Votes (pair, person, choice) as a dataset has them."""
    names = ("pair_id", "annotator_id", "choice")
    columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    return pa.table(columns | {"source": [source] * len(rows)})


def test_repeated_votes_tell_how_large_a_taste_is():
    """Three people on each of many pairs: E (q - 1/2)^2, whatever makes them differ; few pairs change little."""
    rng = np.random.default_rng(0)
    q = rng.choice([0.1, 0.3, 0.5, 0.8, 1.0], 2000)
    ids = [f"p{i}" for i in range(2000)]
    rows = [(pair, who, "0" if rng.random() < q[i] else "1") for i, pair in enumerate(ids) for who in ("a", "b", "c")]
    found = resolution_of(ids, votes_of(*rows))
    assert (
        found.pairs == 2000
        and found.spread < 0.006
        and found.value == pytest.approx(np.mean((q - 0.5) ** 2), abs=0.008)
    )
    flipped = [(pair, who, choice if rng.random() < 0.8 else str(1 - int(choice))) for pair, who, choice in rows]
    assert resolution_of(ids, votes_of(*flipped)).value == pytest.approx(0.36 * np.mean((q - 0.5) ** 2), abs=0.008)
    few = [row for row in flipped if int(row[0][1:]) < 3]
    told = resolution_of(ids, votes_of(*few))
    assert told.pairs == 3 and told.value == pytest.approx(RESOLUTION, abs=0.02) and told.spread > 0.03


def test_what_says_nothing_of_agreement_is_left_out():
    ids = ["p", "q"]
    assert resolution_of(ids, votes_of(("p", "a", "0"), ("q", "a", "1"))) == Resolution()
    assert resolution_of(ids, votes_of(("p", "a", "0"), ("p", "a", "0"))) == Resolution()  # one person, twice
    assert resolution_of(ids, votes_of(("p", "a", "0"), ("p", "b", "skip"))) == Resolution()
    assert resolution_of(ids, votes_of(("r", "a", "0"), ("r", "b", "0"))) == Resolution()  # no such pair
    assert resolution_of(ids, votes_of(("p", "a", "0"), ("p", "b", "0"), source="judge")) == Resolution()
    agreed = resolution_of(ids, votes_of(("p", "a", "0"), ("p", "b", "0")))
    against = resolution_of(ids, votes_of(("p", "a", "0"), ("p", "b", "1")))
    assert agreed.pairs == 1 and against.value < RESOLUTION < agreed.value
    assert "On 1 pairs" in agreed.in_words() and Resolution().in_words() == ""
    many = [(f"p{i}", who, who) for i in range(500) for who in ("0", "1")]  # people who always differ
    assert resolution_of([f"p{i}" for i in range(500)], votes_of(*many)).value == 0.01
