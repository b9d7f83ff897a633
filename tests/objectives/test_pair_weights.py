import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.errors import PalateError
from palate.objectives.adaptive import label_side
from palate.objectives.links import sigmoid
from palate.objectives.pair_weights import amapo_margin, madpo_weight, uncertainty_margin, uncertainty_weight


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_madpo_is_one_at_tau_more_for_harder_pairs_and_less_for_easier_ones():
    tau = 0.3
    h = double(-5, 0, tau, 2 * tau, 50)
    weight = madpo_weight(h, tau, low=0.1, high=10)
    sig = [1 / (1 + math.exp(v / tau)) * (1 + math.e) for v in h.tolist()]
    assert weight.tolist() == pytest.approx([*sig[:4], 0.1], rel=1e-9)
    assert weight[2].item() == pytest.approx(1, rel=1e-12)
    assert (weight.diff() < 0).all()


def test_madpo_is_clipped_on_both_sides_and_can_reach_neither_zero_nor_infinity():
    weight = madpo_weight(torch.tensor([-1e4, -0.2, 0.0, 1e4]))
    assert weight.tolist() == pytest.approx([2, 2, (1 + math.e) / 2, 0.25], rel=1e-6)
    assert madpo_weight(double(-1e4), low=0, high=100).item() == pytest.approx(1 + math.e, rel=1e-12)


@pytest.mark.parametrize(("tau", "low", "high"), [(0, 0.2, 2), (-1, 0.2, 2), (1, 2, 0.2), (1, -1, 2), (math.nan, 0, 1)])
def test_madpo_refuses_what_is_no_scale_and_no_range(tau, low, high):
    with pytest.raises(PalateError, match="madpo"):
        madpo_weight(double(0.0), tau, low, high)


def test_amapo_by_hand():
    """z_w = 0, 1, 5: mean 2, unbiased standard deviation sqrt(7)."""
    sd = math.sqrt(7)
    expected = [math.exp(2 / sd * 2), math.exp(1 / sd * 2), 0]
    assert amapo_margin(double(0, 1, 5)).tolist() == pytest.approx(expected, rel=1e-12)
    assert amapo_margin(double(0, 1, 5), beta=2.5).tolist() == pytest.approx([2.5 * v for v in expected], rel=1e-12)


def test_amapo_gives_pairs_behind_the_batch_a_steeper_slope_and_the_others_none():
    z = double(-1.0, 0.2, 0.5, 1.5).requires_grad_()
    margin = amapo_margin(z)
    assert not margin.requires_grad
    (slope,) = torch.autograd.grad(sigmoid(z - margin, torch.ones_like(z)).sum(), z)
    (plain,) = torch.autograd.grad(sigmoid(z, torch.ones_like(z)).sum(), z)
    behind = z.detach() < z.detach().mean()
    assert behind.tolist() == [True, True, False, False]
    assert (slope[behind] < plain[behind]).all() and torch.equal(slope[~behind], plain[~behind])


def test_amapo_with_a_negative_mean_has_margins_below_one():
    margin = amapo_margin(double(-3, -2, -1, -1.5))
    assert 0 < margin[0] < margin[1] < 1


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("value", [0.0, 0.1, -0.1, 1e-30, 1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_amapo_of_equal_logits_is_zero_whatever_rounding_makes_of_their_mean(size, value, dtype):
    assert torch.equal(amapo_margin(torch.full((size,), value, dtype=dtype)), torch.zeros(size, dtype=dtype))


def test_amapo_at_the_start_of_training_is_zero():
    assert torch.equal(amapo_margin(torch.zeros(4)), torch.zeros(4))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12))
def test_amapo_never_overflows(values):
    z = torch.tensor(values, dtype=torch.float32).requires_grad_()
    margin = amapo_margin(z)
    assert margin.isfinite().all() and (margin >= 0).all() and margin.max() <= math.exp(9) * 1.01
    (slope,) = torch.autograd.grad(sigmoid(z - margin, torch.ones_like(z)).sum(), z)
    assert slope.isfinite().all()


def test_amapo_does_not_depend_on_the_order_of_the_batch():
    z = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(amapo_margin(z[order]), amapo_margin(z)[order])
    assert amapo_margin(z).count_nonzero() == (z < z.mean()).sum()


def test_uncertainty_attenuates_as_a_weight_and_raises_the_slope_as_a_margin():
    u, z = double(0, 0.5, 2.0), double(0.3, 0.3, 0.3).requires_grad_()
    one = torch.ones_like(z)
    assert uncertainty_weight(u, tau=0.5).tolist() == pytest.approx([1, math.exp(-1), math.exp(-4)], rel=1e-12)
    assert uncertainty_margin(u, kappa=3.0).tolist() == [0, 1.5, 6]
    (weighted,) = torch.autograd.grad((uncertainty_weight(u) * sigmoid(z, one)).sum(), z)
    (shifted,) = torch.autograd.grad(sigmoid(z - uncertainty_margin(u), one).sum(), z)
    assert (weighted.diff() > 0).all()  # toward 0
    assert (shifted.diff() < 0).all()  # away from it
    expected = [-1 / (1 + math.exp(0.3 - v)) for v in u.tolist()]
    assert shifted.tolist() == pytest.approx(expected, rel=1e-12)


def test_uncertainty_of_zero_changes_nothing_and_a_large_one_stays_a_number():
    assert torch.equal(uncertainty_weight(torch.zeros(3)), torch.ones(3))
    assert torch.equal(uncertainty_margin(torch.zeros(3)), torch.zeros(3))
    assert uncertainty_weight(torch.tensor([1e4]), tau=1e-3).item() == 0
    with pytest.raises(PalateError, match="tau"):
        uncertainty_weight(torch.zeros(1), 0)
    with pytest.raises(PalateError, match="kappa"):
        uncertainty_margin(torch.zeros(1), -1)


def test_swapping_the_images_changes_no_loss_for_soft_debiased_and_tied_targets():
    generator = torch.Generator().manual_seed(3)
    z, reward = torch.randn(2, 7, dtype=torch.float64, generator=generator)
    u = torch.rand(7, dtype=torch.float64, generator=generator)
    target = double(1, 0, 0.7, 0.3, 3.4, -1.5, 0.5)

    def losses(sign, target):
        side = label_side(target)
        margin = side * (amapo_margin(side * sign * z) + uncertainty_margin(u))
        return madpo_weight(side * sign * reward) * uncertainty_weight(u) * sigmoid(sign * z - margin, target)

    torch.testing.assert_close(losses(-1, 1 - target), losses(1, target))
    plain = sigmoid(z, target)
    assert ((losses(1, target) - plain).abs() > 1e-3).all()


def test_none_carries_a_gradient_and_half_precision_is_not_used_inside():
    for function in (madpo_weight, amapo_margin, uncertainty_weight, uncertainty_margin):
        value = torch.tensor([0.1, 0.7, 0.4], dtype=torch.bfloat16, requires_grad=True)
        made = function(value)
        assert not made.requires_grad and made.dtype == torch.float32
        torch.testing.assert_close(made, function(value.float()))
