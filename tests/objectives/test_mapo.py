import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.errors import PalateError
from palate.objectives.mapo import mapo, odds_logit, phi, winner_error

errors = st.floats(0, 50)
targets = st.floats(-4, 5)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 200), st.floats(0.05, 1))
def test_phi_is_its_formula(error, s):
    x = s * error
    assert phi(double(error), s).item() == pytest.approx(x / math.expm1(x), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("s", [0.5, 1.0])
def test_phi_near_zero_is_one_with_slope_minus_half_s(dtype, s):
    error = torch.tensor([0.0, 1e-30, 1e-12, 1e-6, 1e-3], dtype=dtype, requires_grad=True)
    value = phi(error, s)
    (gradient,) = torch.autograd.grad(value.sum(), error)
    assert value[:3].tolist() == pytest.approx([1, 1, 1], abs=1e-11) and value[0] == 1
    expected = [-s / 2 + s * s * e / 6 for e in error.tolist()]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-6)


def test_value_and_slope_of_phi_do_not_jump_where_its_two_forms_meet():
    edge = 0.25
    error = double(edge * (1 - 1e-12), edge * (1 + 1e-12)).requires_grad_()
    value = phi(error, 1.0)
    (gradient,) = torch.autograd.grad(value.sum(), error)
    assert value[0].item() == pytest.approx(value[1].item(), abs=1e-12)
    assert gradient[0].item() == pytest.approx(gradient[1].item(), abs=1e-10)
    exact = (math.expm1(edge) - edge * math.exp(edge)) / math.expm1(edge) ** 2
    assert gradient[0].item() == pytest.approx(exact, rel=1e-10)


def test_gradients_agree_with_finite_differences():
    first, second = double(0.01, 0.1, 0.3, 0.6, 2.0, 9.0), double(0.02, 0.1, 0.2, 0.9, 1.0, 3.0)
    p = double(1, 0, 0.5, 3, -2, 1)
    inputs = (first.requires_grad_(), second.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: mapo(a, b, p, 0.7, 10), inputs)


def test_the_logit_prefers_the_smaller_error_at_the_published_scale():
    step = 1e-6
    slope = odds_logit(double(0.1), double(0.1 + step)).item() / step
    assert slope == pytest.approx(246, rel=2e-3)
    assert odds_logit(double(0.2), double(0.1)).item() < 0 == odds_logit(double(0.1), double(0.1)).item()


def test_hard_labels_give_the_published_odds_term():
    first, second = double(0.1, 0.3), double(0.12, 0.29)
    k = [1000 * (0.5 * a / math.expm1(0.5 * a) - 0.5 * b / math.expm1(0.5 * b)) for a, b in ((0.1, 0.12), (0.3, 0.29))]
    expected = [math.log1p(math.exp(-value)) for value in k]
    assert mapo(first, second, double(1, 1)).tolist() == pytest.approx(expected, rel=1e-9)
    assert mapo(second, first, double(0, 0)).tolist() == pytest.approx(expected, rel=1e-9)
    scaled = mapo(double(0.1), double(0.12), double(1), s=1.0, T=10).item()
    assert scaled == pytest.approx(math.log1p(math.exp(-10 * (0.1 / math.expm1(0.1) - 0.12 / math.expm1(0.12)))))


def test_single_precision_keeps_the_digits_of_the_logit():
    """Subtracting two numbers near 1 and multiplying by 1000 would leave an error of about 1e-4."""
    generator = torch.Generator().manual_seed(0)
    first, second = 0.02 * torch.rand(2, 200, generator=generator) + 0.01
    exact = odds_logit(first.double(), second.double())
    assert (odds_logit(first, second).double() - exact).abs().max() < 3e-6
    assert (1000 * (phi(first) - phi(second)).double() - exact).abs().max() > 1e-5


@settings(max_examples=60, deadline=None)
@given(errors, errors, targets)
def test_swapping_the_images_changes_nothing(first, second, p):
    for loss in (mapo, winner_error):
        here, there = loss(double(first), double(second), double(p)), loss(double(second), double(first), double(1 - p))
        torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("p", [-3.0, 0.3, 4.0])
def test_soft_and_debiased_targets_mix_the_two_hard_labels(p):
    first, second, one = double(0.1, 0.3), double(0.12, 0.29), double(1, 1)
    for loss in (mapo, winner_error):
        mixed = p * loss(first, second, one) + (1 - p) * loss(first, second, 0 * one)
        torch.testing.assert_close(loss(first, second, p * one), mixed)


def test_winner_error_is_the_winners_and_falls_without_end_for_a_debiased_target():
    assert winner_error(double(0.1, 0.1, 0.1), double(0.4, 0.4, 0.4), double(1, 0, 0.5)).tolist() == [0.1, 0.4, 0.25]
    assert winner_error(double(0.1), double(1e6), double(3.0)).item() < -1e6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_errors_and_half_precision_stay_finite_and_single(dtype):
    first = torch.tensor([0.0, 1e-7, 0.3, 80.0, 400.0, 1e4]).to(dtype).requires_grad_()
    second = first.detach().flip(0)
    for p in (1.0, 0.0, 3.4):
        target = torch.full_like(second, p)
        for loss in (mapo(first, second, target), winner_error(first, second, target), phi(first)):
            (gradient,) = torch.autograd.grad(loss.sum(), first)
            assert loss.dtype == torch.float32 and loss.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("s", [0.0, -1.0, math.nan])
def test_a_scale_that_is_not_positive_is_refused(s):
    with pytest.raises(PalateError, match="s = .* is not positive"):
        mapo(double(0.1), double(0.2), double(1), s)
