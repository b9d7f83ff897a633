"""Draws are a function of their address; batches of the step; and stratified batches stay unbiased."""

import numpy as np
import pytest
import torch

from palate.errors import PalateError
from palate.training.batches import Batches
from palate.training.draws import draws


def test_a_draw_depends_on_its_address_only():
    together = draws(0, ["a", "b", "c"], [0, 4, 1], (2, 3, 3), 1000)
    alone = draws(0, ["b"], [4], (2, 3, 3), 1000)
    assert (
        torch.equal(together.noise[1:2], alone.noise)
        and together.timestep[1] == alone.timestep[0]
        and together.uniform[1] == alone.uniform[0]
    )
    for other in (
        draws(1, ["b"], [4], (2, 3, 3), 1000),
        draws(0, ["b"], [5], (2, 3, 3), 1000),
        draws(0, ["c"], [4], (2, 3, 3), 1000),
    ):
        assert not torch.equal(other.noise, alone.noise)


def test_draws_are_uniform_in_time_and_normal_in_noise():
    many = draws(0, [str(i) for i in range(4000)], [0] * 4000, (1, 2, 2), 10)
    counts = torch.bincount(many.timestep, minlength=10)
    assert counts.min() > 320 and counts.max() < 480  # 400 +- 4 standard deviations
    assert (
        many.noise.mean().abs() < 0.04
        and (many.noise.std() - 1).abs() < 0.03
        and (many.uniform.mean() - 0.5).abs() < 0.03
    )


def test_an_epoch_visits_every_pair_once_and_numbers_its_draws():
    labelled = np.arange(30) < 10
    batches = Batches(labelled, size=6, labelled_per_batch=2, seed=0)
    visits = [batches.at(i) for i in range(5)]
    rows = np.concatenate([b.row for b in visits])
    draw = np.concatenate([b.draw for b in visits])
    assert sorted(rows[rows < 10]) == list(range(10)) and sorted(rows[rows >= 10]) == list(range(10, 30))
    assert (draw == 0).all() and (batches.at(5).draw == 1).all()
    assert (batches.at(3).row == visits[3].row).all()  # no state: asking again gives the same


@pytest.mark.parametrize("labelled_per_batch", [None, 1, 3, 5])
def test_the_scaled_batch_mean_is_unbiased(labelled_per_batch):
    rng = np.random.default_rng(0)
    labelled, value = np.arange(40) < 8, rng.normal(size=40)
    value[labelled] += 5
    batches = Batches(labelled, size=8, labelled_per_batch=labelled_per_batch, seed=1)
    estimates = [np.mean(b.scale * value[b.row]) for b in (batches.at(i) for i in range(640))]
    assert np.mean(estimates) == pytest.approx(value.mean(), abs=0.03)
    if labelled_per_batch not in (None,):
        unscaled = np.mean([np.mean(value[batches.at(i).row]) for i in range(640)])
        share = labelled_per_batch / 8
        assert unscaled == pytest.approx(
            share * value[labelled].mean() + (1 - share) * value[~labelled].mean(), abs=0.05
        )


def test_a_batch_larger_than_its_stratum_is_refused():
    with pytest.raises(PalateError, match="takes 4 labelled pairs, but there are only 3"):
        Batches(np.arange(30) < 3, size=8, labelled_per_batch=4, seed=0)
    with pytest.raises(PalateError, match="only 30"):
        Batches(np.ones(30, bool), size=31, labelled_per_batch=None, seed=0)
