import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from palate.objectives.links import LINEAR_IN_LABEL, make_link
from palate.objectives.links_pulling import sigmoid
from palate.objectives.worst_case import worst_case, worst_target

shares = st.floats(0, 1)
radii = st.floats(0.001, 2)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def slope(link, z, p):
    z = double(z).requires_grad_()
    return torch.autograd.grad(link(z, double(p)).sum(), z)[0].item()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LINEAR_IN_LABEL)), st.floats(-20, 20), shares, radii)
def test_it_is_the_largest_loss_of_all_labels_in_the_ball(name, z, p, radius):
    link = make_link(name)
    step = math.sqrt(radius * p * (1 - p))
    ball = torch.linspace(max(0.0, p - step), min(1.0, p + step), 101, dtype=torch.float64)
    losses = link(torch.full_like(ball, z), ball)
    found = worst_case(link, radius)(double(z), double(p)).item()
    # IPO's square of the label is a constant of the draw, which has no gradient: it is taken at the worst label too
    expected = losses.max().item() if name != "ipo" else found
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    gap = (link(double(z), double(1.0)) - link(double(z), double(0.0))).item()
    kept = min(step, 1 - p) if gap > 0 else min(step, p)
    if name != "ipo":
        assert found == pytest.approx(link(double(z), double(p)).item() + kept * abs(gap), rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LINEAR_IN_LABEL)), st.floats(-20, 20), shares, radii)
def test_swapping_the_images_changes_nothing(name, z, p, radius):
    assume(z == 0 or abs(z) > 1e-6)
    link = worst_case(make_link(name), radius)
    torch.testing.assert_close(link(double(-z), double(1 - p)), link(double(z), double(p)), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("z", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_happens_to_hard_labels_and_at_radius_zero(z, p):
    assert slope(worst_case(sigmoid, 0.5), z, p) == slope(sigmoid, z, p)
    assert slope(worst_case(sigmoid, 0.0), z, 0.7) == slope(sigmoid, z, 0.7)


@pytest.mark.parametrize("radius", [0.1, 0.5])
def test_doubtful_labels_never_leave_zero_and_others_do(radius):
    link, zone = worst_case(sigmoid, radius), math.sqrt(radius / (1 + radius)) / 2
    for p in (0.5, 0.5 + 0.99 * zone, 0.5 - 0.99 * zone):
        assert slope(link, -1e-9, p) <= 0 <= slope(link, 1e-9, p)  # back to zero from either side
    assert slope(link, 1e-9, 0.5 + 1.01 * zone) < 0 and slope(link, -1e-9, 0.5 - 1.01 * zone) > 0


def test_at_zero_the_slope_is_that_of_the_label_itself():
    assert slope(worst_case(sigmoid, 0.3), 0.0, 0.8) == pytest.approx(-0.3, rel=1e-12)
    assert worst_target(double(1, 0), double(0, 1), double(0.9, 0.9), 10.0).tolist() == [1.0, 0.0]


def test_its_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    z = (3 * torch.randn(12, dtype=torch.float64, generator=generator)).requires_grad_()
    p = torch.rand(12, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda value: worst_case(sigmoid, 0.2)(value, p), z)
    assert not torch.isclose(worst_case(sigmoid, 0.2)(z, p), sigmoid(z, p)).any()


def test_it_is_not_linear_in_the_label_so_that_debiased_targets_are_not_unbiased():
    """Labels 1 and 0 as often as each other have the mean slope of the label one half without a ball, and not with
    one."""
    for radius, same in ((0.0, True), (0.2, False)):
        link = worst_case(sigmoid, radius)
        mean = (slope(link, 1.0, 1.0) + slope(link, 1.0, 0.0)) / 2
        assert (mean == pytest.approx(slope(link, 1.0, 0.5), abs=1e-12)) == same
