import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.objectives.links import LINKS, hinge, ipo, sigmoid

logits = st.floats(-30, 30)
targets = st.floats(-4, 5)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def slope(link, z, p):
    z = double(z).requires_grad_()
    return torch.autograd.grad(link(z, double(p)).sum(), z)[0].item()


def test_published_values_of_the_sigmoid_link():
    z, p = double(0, 0, 0, 2, 2), double(0, 0.3, 3.4, 1, 3.4)
    expected = double(0.693147, 0.693147, 0.693147, 0.126928, -4.673072)
    torch.testing.assert_close(sigmoid(z, p), expected, rtol=0, atol=1e-6)
    assert slope(sigmoid, 2, 3.4) == pytest.approx(-2.519203, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(logits, targets)
def test_sigmoid_is_softplus_minus_pz_with_slope_sigmoid_minus_p(z, p):
    assert sigmoid(double(z), double(p)).item() == pytest.approx(math.log1p(math.exp(z)) - p * z, rel=1e-9, abs=1e-9)
    assert slope(sigmoid, z, p) == pytest.approx(1 / (1 + math.exp(-z)) - p, rel=1e-9, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(LINKS)), logits, targets)
def test_swapping_the_images_changes_nothing(name, z, p):
    link = LINKS[name]
    expected = link(double(z), double(p)).item()
    assert link(double(-z), double(1 - p)).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(LINKS)), logits, targets, targets, st.floats(0, 1))
def test_slope_is_linear_in_the_target(name, z, p, q, mixing):
    link = LINKS[name]
    between = mixing * slope(link, z, p) + (1 - mixing) * slope(link, z, q)
    assert slope(link, z, mixing * p + (1 - mixing) * q) == pytest.approx(between, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", sorted(LINKS))
def test_gradients_agree_with_finite_differences(name):
    generator = torch.Generator().manual_seed(0)
    z = (3 * torch.randn(12, dtype=torch.float64, generator=generator)).requires_grad_()
    p = 2 * torch.randn(12, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda value: LINKS[name](value, p), z)


@pytest.mark.parametrize("name", sorted(LINKS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_logits_stay_finite(name, dtype):
    z = torch.tensor([-1e4, -200, -1e-8, 0, 1e-8, 200, 1e4], dtype=dtype).repeat(5).requires_grad_()
    p = torch.tensor([-3, 0, 0.5, 1, 4], dtype=dtype).repeat_interleave(7)
    loss = LINKS[name](z, p)
    loss.sum().backward()
    assert loss.isfinite().all() and z.grad.isfinite().all()


def test_a_satisfied_hard_label_keeps_its_small_gradient_in_single_precision():
    z = torch.tensor([25.0], requires_grad=True)
    sigmoid(z, torch.ones(1)).sum().backward()
    assert z.grad.item() == pytest.approx(-math.exp(-25), rel=1e-4)


@pytest.mark.parametrize("p", [-3.0, 0.0, 0.2, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("margin", [0.5, 2.0, 5.0])
def test_ipo_has_the_slope_of_the_sigmoid_at_zero_and_stops_at_its_margin(p, margin):
    assert slope(lambda z, t: ipo(z, t, margin), 0.0, p) == pytest.approx(0.5 - p, abs=1e-12)
    assert slope(lambda z, t: ipo(z, t, margin), (2 * p - 1) * margin, p) == pytest.approx(0, abs=1e-12)
    assert ipo(double(1e6), double(p), margin).item() > 0  # bounded below, unlike the sigmoid link


def test_hinge_of_hard_labels():
    torch.testing.assert_close(hinge(double(0.3, 2, 0.3, -2), double(1, 1, 0, 0)), double(0.7, 0, 1.3, 0))
