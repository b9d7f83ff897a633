"""RE-PO: rates of people learned on the model's own logits, and the targets that they make of votes."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from parity.cases import cases, close, dpo_logit, get, predictions
from tiny import make_labelled_dataset, refusal
from training.test_methods import run_twice
from training.test_train import settings

import palate
from palate.labels.people import People, VotesOfPeople
from palate.labels.votes import prepare_rows
from palate.objectives.links_giving_up import mixture
from palate.objectives.links_pulling import ipo, sigmoid
from palate.run.load import load_config
from palate.training.rates import Rates, own_logit, posterior

BASE = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o", "method": "re-po"}


def rates_of(voter, vote, rate=(0.9, 0.6), **changes) -> Rates:
    people = People(tuple(f"person {k}" for k in range(len(rate))), np.array(rate))
    return Rates(VotesOfPeople(people, np.array(voter), np.array(vote)), load_config(BASE | changes))


@pytest.mark.parametrize("case", cases("re_po"))
def test_posterior_and_rate_are_those_of_the_documented_update(case):
    hyper, (prediction, target, reference) = case["hyper"], predictions(case, torch.float64)
    z = dpo_logit(None, prediction, target, reference, hyper["beta"])
    rates = rates_of(np.zeros((len(z), 1), int), np.ones((len(z), 1)), (hyper["eta"],), reliability_momentum=hyper["momentum"])  # fmt: skip
    every = torch.arange(len(z))
    close(rates.targets(every, z), get(case, "posterior_f64"), rtol=1e-9)
    rates.update(every, z)
    close(rates.rate[0], get(case, "eta_after_f64"), rtol=1e-9)


def test_one_vote_of_a_known_rate_has_the_gradient_of_the_mixture_link():
    z = torch.linspace(-6, 6, 25, dtype=torch.float64, requires_grad=True)
    for vote in (1.0, 0.0):
        rates = rates_of(np.zeros((25, 1), int), np.full((25, 1), vote), (0.8,))
        target = rates.targets(torch.arange(25), own_logit(sigmoid, z))
        ours, link = (
            torch.autograd.grad(loss.sum(), z)[0]
            for loss in (sigmoid(z, target), mixture(z, torch.full_like(z, vote), 0.8))
        )
        torch.testing.assert_close(ours, link)


def test_a_pair_takes_the_mean_of_its_votes_and_exchanged_images_mirror_it():
    voter = [[0, 1, -1], [1, 0, 0], [0, -1, -1]]
    vote = [[1.0, 0.0, np.nan], [0.5, 1.0, 0.0], [1.0, np.nan, np.nan]]
    z = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    row, rates = torch.arange(3), rates_of(voter, vote)
    a, b = (posterior(side * z[0], torch.tensor(rate, dtype=torch.float64)) for side, rate in ((1, 0.9), (-1, 0.6)))
    found = rates.targets(row, z)
    assert found[0].item() == pytest.approx((a + 1 - b).item() / 2)
    mirrored = rates_of(voter, 1 - np.array(vote))
    torch.testing.assert_close(mirrored.targets(row, -z), 1 - found)
    for one, logit in ((rates, z), (mirrored, -z)):
        one.update(row, logit)
    torch.testing.assert_close(rates.rate, mirrored.rate)
    assert rates.count.tolist() == [4, 1]  # a tie says nothing of its voter


def test_with_another_link_the_odds_are_those_of_its_losses():
    z = torch.tensor([-2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(own_logit(sigmoid, z), z)
    torch.testing.assert_close(own_logit(lambda z, p: ipo(z, p, 2.0), z), ipo(-z, torch.ones(2), 2.0) - ipo(z, torch.ones(2), 2.0))  # fmt: skip


def test_rates_are_found_from_logits_that_follow_the_truth_and_stay_where_nothing_is_known():
    rng = np.random.default_rng(0)
    truth, careful = rng.random(4000) < 0.5, rng.random(4000) < 0.5
    right = rng.random(4000) < np.where(careful, 0.95, 0.65)
    vote, voter = np.where(right, truth, ~truth)[:, None].astype(float), np.where(careful, 0, 1)[:, None]
    z = torch.tensor(np.where(truth, 1.0, -1.0) * rng.uniform(2, 6, 4000))
    rates = rates_of(voter, vote, (0.8, 0.8, 0.8))
    for start in range(0, 4000, 16):
        row = torch.arange(start, start + 16)
        rates.update(row, z[row])
    assert rates.rate[0] == pytest.approx(0.95, abs=0.04) and rates.rate[1] == pytest.approx(0.65, abs=0.08)
    assert rates.rate[2] == 0.8  # never asked
    still = rates_of(voter, vote, (0.8, 0.7))
    still.update(torch.arange(4000), torch.zeros(4000))
    torch.testing.assert_close(still.rate, torch.tensor([0.8, 0.7], dtype=torch.float64))  # a model that has not moved


def test_votes_at_the_first_rate_hold_back_rates_of_few_votes():
    voter, vote = np.zeros((2, 1), int), np.zeros((2, 1))
    z = torch.full((2,), 5.0, dtype=torch.float64)
    free, held = (rates_of(voter, vote, (0.8,), reliability_prior=prior, reliability_momentum=1.0) for prior in (0, 6))
    for rates in (free, held):
        rates.update(torch.arange(2), z)
    w = posterior(-z[0], torch.tensor(0.8, dtype=torch.float64)).item()
    assert free.rate.item() == 0.5  # its floor: below it a vote would count for the other image
    assert held.rate.item() == pytest.approx((2 * w + 6 * 0.8) / 8)


# In a run ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Five people on the same pairs; the last one votes against the others."""
    dataset = make_labelled_dataset(tmp_path_factory.mktemp("people") / "data", pairs=16, labelled=0)
    rng, names = np.random.default_rng(0), ("a", "b", "c", "d", "contrary")
    votes = []
    for i in range(16):
        truth = rng.random() < 0.5
        for name in names:
            says = truth if name != "contrary" else not truth
            says = says if rng.random() < 0.95 else not says
            votes.append({"vote_id": f"{name}-{i}", "pair_id": f"p{i:03}", "annotator_id": name, "source": "human", "choice": "0" if says else "1"})  # fmt: skip
    dataset.append_votes(votes)
    return dataset


def test_a_run_knows_who_voted_and_writes_their_rates(people, pipeline_folder, tmp_path):
    config = settings(pipeline_folder, people, tmp_path / "run", method="re-po", max_train_steps=3, learning_rate=1e-2)
    rows = prepare_rows(people, load_config(config))
    assert rows.people.people.names == ("a", "b", "c", "contrary", "d") and (rows.people.voter >= 0).all()
    assert np.nanmean(rows.people.vote, axis=1) == pytest.approx(rows.human)
    run = palate.train(config)
    assert run.metrics[0]["rewards/margins"] == 0.0
    table = pq.read_table(run.path / "reliability.parquet").to_pydict()
    assert table["annotator_id"] == list(rows.people.people.names) and sum(table["votes"]) == 3 * 4 * 5
    assert set(table["rate"]) != {0.9}


def test_the_audits_rates_tell_who_is_against_the_others(people, pipeline_folder, tmp_path):
    config = load_config(settings(pipeline_folder, people, tmp_path / "run", reliability="audit"))
    found = prepare_rows(people, config).people.people
    rates = dict(zip(found.names, found.rate, strict=True))
    assert rates["contrary"] < 0.2 and all(rates[name] > 0.85 for name in "abcd")
    rows = prepare_rows(people, config)
    held = Rates(rows.people, config)
    before = held.rate.clone()
    held.update(torch.arange(16), torch.ones(16))
    assert (
        torch.equal(held.rate, before) and before.min() == 0.5
    )  # a contrary vote counts for nothing, not for the other


def test_rates_go_on_where_a_run_stopped(people, pipeline_folder, tmp_path, monkeypatch):
    whole, halves = run_twice(
        pipeline_folder, people, tmp_path, monkeypatch, lora={"rank": 4}, method="re-po", learning_rate=1e-2
    )
    assert whole.metrics == halves.metrics
    tables = [pq.read_table(run.path / "reliability.parquet") for run in (whole, halves)]
    assert tables[0].equals(tables[1])


def test_too_few_people_for_the_audits_rates_are_refused(dataset, pipeline_folder, tmp_path):
    config = load_config(settings(pipeline_folder, dataset, tmp_path / "run", reliability="audit"))
    assert "needs 3 people" in refusal(lambda: prepare_rows(dataset, config))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "dedpo", "judge": "j"}, "not linear in the label"),
        ({"flip_rate": 0.1}, "assume something else"),
        ({"link": "mixture"}, "assume something else"),
        ({"reliability": "equal", "reliability_prior": 2.0}, "belong to reliability: learned or audit"),
        ({"reliability": "audit", "reliability_prior": 2.0}, "from the votes alone"),
        ({"link": "smoothed"}, "not linear in its label"),
    ],
)
def test_what_cannot_go_with_rates_is_refused(changes, reason):
    assert reason in refusal(lambda: load_config(BASE | changes))
