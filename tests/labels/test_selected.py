"""Runs on pairs that people picked: estimated propensities, a density ratio, and what stays as it was."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit
from tiny import picture_bytes

from palate.data.dataset import PreferenceDataset
from palate.data.labels import Labels
from palate.data.shards import write_table
from palate.errors import PalateError
from palate.labels.judges import chosen_way
from palate.labels.targets import OWN, dedpo, of_another_source, on_another_source, variance_ratio
from palate.labels.votes import prepare_rows
from palate.run.load import load_config

PAIRS = 600
STATISTICS = ("brightness", "contrast", "saturation", "warmth", "sharpness", "off_centre")


def picked(
    folder, seed: int = 0, stored: dict[str, float] | None = None, noise: bool = False
) -> tuple[PreferenceDataset, dict]:
    """Pairs whose statistics are planted; people labelled those that differ in contrast, and dislike it, which the judge
    likes, unless it votes at random (`noise`)."""
    rng = np.random.default_rng(seed)
    images = [{"bytes": picture_bytes(rng, 16, 16, "PNG"), "path": None} for _ in range(2)]
    ids = [f"p{i:03}" for i in range(PAIRS)]
    x = rng.normal(size=(PAIRS, len(STATISTICS)))
    truth = expit(1.2 * x[:, 0] - 1.2 * x[:, 1])
    shown = rng.random(PAIRS) < expit(1.5 * np.abs(x[:, 1]) - 2.5)
    votes, judge = rng.random(PAIRS) < truth, expit(x[:, 0] + x[:, 1])
    if noise:
        judge = rng.permutation(judge)
    dataset = PreferenceDataset.create(folder, name="picked")
    dataset.add_pairs(
        {"pair_id": p, "prompt": f"prompt {i % 150}", "image_0": images[0], "image_1": images[1],
         "propensity": (stored or {}).get(p)}
        for i, p in enumerate(ids)
    )  # fmt: skip
    by = [{"vote_id": f"j{p}", "pair_id": p, "annotator_id": "judge", "source": "judge",
           "choice": "0" if g > 0.5 else "1", "probability": g} for p, g in zip(ids, judge.tolist(), strict=True)]  # fmt: skip
    human = [{"vote_id": f"a{p}", "pair_id": p, "annotator_id": "ana", "source": "human", "choice": "0" if y else "1"}
             for p, y, r in zip(ids, votes, shown, strict=True) if r]  # fmt: skip
    dataset.append_votes(by + human)
    columns = {"pair_id": ids} | {name: x[:, k] for k, name in enumerate(STATISTICS)}
    write_table(dataset.path / "cache" / "statistics.parquet", pa.table(columns))
    return dataset, {"x": x, "truth": truth, "shown": shown, "judge": judge}


@pytest.fixture(scope="module")
def hand_picked(tmp_path_factory):
    return picked(tmp_path_factory.mktemp("picked") / "data")


def rows_of(dataset, **changes):
    base = {"pretrained_model_name_or_path": "world", "dataset": str(dataset.path), "output_dir": "o"}
    return prepare_rows(dataset, load_config({**base, "method": "dedpo", "judge": "judge", **changes}))


def contrast(rows, world) -> float:
    """How much more often targets choose the picture of more contrast than people would."""
    side = np.sign(world["x"][:, 1])[[int(i[1:]) for i in rows.id]]
    truth = np.mean(np.sign(world["x"][:, 1]) * (world["truth"] - 0.5))
    return float(np.sum(rows.weight * side * (rows.target - 0.5)) / rows.weight.sum() - truth)


def test_a_run_estimates_says_so_and_removes_what_a_constant_share_leaves(hand_picked, capsys):
    dataset, world = hand_picked
    given = rows_of(dataset, correction="none")
    assert "propensities" not in given.account and (given.propensity == world["shown"].mean()).all()
    capsys.readouterr()
    rows = rows_of(dataset, correction="none", propensity="estimated")
    told = capsys.readouterr().out
    account = json.loads(json.dumps(rows.account))["propensities"]
    assert abs(contrast(given, world)) > 0.08 and abs(contrast(rows, world)) < 0.06
    assert f"labels: The {world['shown'].sum()} labelled pairs were not drawn at random (p < 0.001" in told
    assert "in the difference in contrast +" in told and "labels: Overlap: estimated propensities 0." in told
    assert account["effective"] < account["labelled"] and account["chance"] < 0.001
    before, after = account["balance"]["the difference in contrast"]
    assert before > 0.4 and abs(after) < 0.15
    assert (1 / rows.propensity[rows.labelled]).sum() == pytest.approx(PAIRS, rel=1e-6)
    assert rows.fingerprint() == given.fingerprint()


def test_every_way_that_divides_by_a_propensity_takes_the_estimate(hand_picked):
    dataset, world = hand_picked
    own = rows_of(dataset, correction="none", propensity="estimated").propensity
    alone = rows_of(dataset, power=0.0, correction="none", propensity="estimated")
    np.testing.assert_allclose(alone.weight, (1 / own[world["shown"]]) / np.mean(1 / own[world["shown"]]), rtol=1e-9)
    for changes in ({}, {"power": "auto"}, {"method": "auto"}, {"method": "self-training", "judge": "self"},
                    {"residual": 0.5}, {"ramp": True}):  # fmt: skip
        rows = rows_of(dataset, propensity="estimated", **changes)
        place = [int(i[1:]) for i in rows.id]
        np.testing.assert_allclose(rows.propensity, own[place])
    held = rows_of(dataset, correction="none", propensity="estimated", held_out_votes=0.2)
    assert (1 / held.propensity[held.labelled]).sum() == pytest.approx(PAIRS, rel=1e-6)


def test_where_human_votes_alone_are_chosen_each_is_weighted(tmp_path, monkeypatch):
    """Whatever the choice would be for these votes: here human votes alone are chosen."""

    def people_alone(*given):
        config, choice, agreed = chosen_way(*given)
        return replace(config, target="human", residual=1.0), choice, agreed

    monkeypatch.setattr("palate.labels.learnt.chosen_way", people_alone)
    dataset, world = picked(tmp_path / "data", noise=True)
    rows = rows_of(dataset, method="auto", propensity="estimated")
    assert len(rows) == world["shown"].sum()
    weight = 1 / rows.propensity
    np.testing.assert_allclose(rows.weight, weight / weight.mean(), rtol=1e-9)
    assert set(rows.target.tolist()) == {0.0, 1.0} and rows.weight.std() > 0.2


def test_stored_propensities_stay_as_they_are_and_others_are_estimated(tmp_path):
    stored = {f"p{i:03}": 0.25 for i in range(300)}
    dataset, world = picked(tmp_path / "data", stored=stored)
    rows = rows_of(dataset, correction="none", propensity="estimated")
    assert (rows.propensity[:300] == 0.25).all() and np.ptp(rows.propensity[300:]) > 0.2
    with pytest.raises(PalateError, match="density-ratio is for people's pairs of another source, and 300 pairs"):
        rows_of(dataset, correction="none", propensity="density-ratio")
    complete, _ = picked(tmp_path / "all", stored={f"p{i:03}": 0.5 for i in range(PAIRS)})
    rows, given = (rows_of(complete, correction="none", propensity=p) for p in ("estimated", "given"))
    assert (rows.target == given.target).all() and (rows.weight == given.weight).all()
    assert rows.account["propensities"]["sentences"] == [
        "There is no propensity to estimate: all pairs have a stored propensity."
    ]


def test_targets_that_divide_by_nothing_refuse_the_key(hand_picked):
    for target in ("human", "mix", "judge"):
        with pytest.raises(PalateError, match=f"what target 'dedpo' divides by, and target '{target}' does not"):
            load_config({
                "pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o", "propensity": "estimated",
                "target": target, **({} if target == "human" else {"judge": "judge"}),
            })  # fmt: skip


def sources(seed: int, pool: int = 3000, human: int = 400):
    """People's pairs from another source than the pool: its first statistic is spread wider and its second narrower."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(size=(pool, 2)), rng.normal(size=(human, 2)) * (1.5, 0.6)])
    truth = expit(x[:, 0] - x[:, 1])
    voted = np.arange(len(x)) >= pool
    votes = np.where(voted, rng.random(len(x)) < truth, np.nan)
    judge = expit(x[:, 0] + x[:, 1] - 0.9 * np.sign(x[:, 1]) * x[:, 0] ** 2)  # worse where people's pairs are often
    density = 1.5 * 0.6 * np.exp(0.5 * ((x / (1.5, 0.6)) ** 2 - x**2).sum(axis=1))
    return x, truth, voted, Labels(votes, judge, np.full(len(x), human / len(x))), density


def test_a_density_ratio_gives_the_taste_on_the_pairs_of_the_judge_not_on_those_of_people():
    found = {"ratio": [], "share": []}
    for seed in range(60):
        x, truth, voted, labels, density = sources(seed)
        ratio = density * (~voted).sum() / density[voted].sum()
        side, wanted = np.sign(x[:, 1]), np.mean((np.sign(x[:, 1]) * (truth - 0.5))[~voted])
        ours = of_another_source(dedpo(on_another_source(labels, ratio)))
        for name, targets in (("ratio", ours), ("share", dedpo(labels))):
            found[name].append(np.average(side * (targets.target - 0.5), weights=targets.weight) - wanted)
    errors = {name: np.std(values) / np.sqrt(60) for name, values in found.items()}
    assert abs(np.mean(found["ratio"])) < max(0.006, 3.5 * errors["ratio"])
    assert abs(np.mean(found["share"])) > 0.03 and abs(np.mean(found["share"])) > 6 * errors["share"]


def test_rows_of_another_source_are_the_published_loss_with_a_hundredth_of_their_own():
    """mean over the pool of CE(z, g) + sum over people's pairs of ratio [CE(z, y) - CE(z, g)] / pool."""
    x, _, voted, labels, density = sources(3, pool=60, human=20)
    ratio, z = density * 60 / density[voted].sum(), np.random.default_rng(4).normal(size=80)
    for power in (0.0, 0.4, 1.0):
        targets = of_another_source(dedpo(on_another_source(labels, ratio), power))
        ce = np.logaddexp(0, z)
        y, g = np.where(voted, labels.human, 0.0), labels.judge
        loss = np.sum(targets.weight * (ce - targets.target * z))
        pool = power * np.sum((ce - g * z)[~voted])
        residual = np.sum((ratio * ((ce - y * z) - power * (ce - g * z)))[voted])
        assert loss == pytest.approx(pool + residual + OWN * np.sum((ce - y * z)[voted]), rel=1e-9)


def test_the_predicted_variance_of_another_source_is_that_of_a_simulation():
    x, truth, voted, labels, density = sources(5, pool=400, human=100)
    rng, alone, helped = np.random.default_rng(6), [], []
    for _ in range(4000):  # people's pairs are drawn by the density ratio's own source, the pool by itself
        own, pool = rng.choice(np.flatnonzero(voted), 100), rng.choice(np.flatnonzero(~voted), 400)
        ratio = density[own] * 400 / density[voted].mean() / 100
        signs = rng.choice([-1.0, 1.0], 400), rng.choice([-1.0, 1.0], 100)  # of the gradient of z, unrelated to labels
        a, b = labels.human[own] - 0.5, labels.judge[own] - 0.5
        alone.append(np.sum(ratio * a * signs[1]))
        helped.append(np.sum((labels.judge[pool] - 0.5) * signs[0]) + np.sum(ratio * (a - b) * signs[1]))
    ratio = np.where(voted, density * 400 / density[voted].sum(), 1.0)
    predicted = variance_ratio(on_another_source(labels, ratio), 1.0, OWN)
    assert predicted == pytest.approx(np.var(helped) / np.var(alone), rel=0.1)


def test_a_run_with_a_density_ratio_trains_on_the_pairs_without_votes(hand_picked):
    dataset, world = hand_picked
    rows = rows_of(dataset, correction="none", propensity="density-ratio")
    share = rows.weight[rows.labelled].sum() / rows.weight.sum()
    assert share == pytest.approx(OWN * rows.labelled.sum() / (OWN * rows.labelled.sum() + (~rows.labelled).sum()))
    assert np.abs(rows.target[rows.labelled]).max() > 50
    assert 0 < rows.account["predicted variance relative to human votes alone"] < 3
