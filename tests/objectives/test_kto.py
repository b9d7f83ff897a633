import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.errors import PalateError
from palate.objectives.kto import UTILITY_LOSSES, balanced_offset, kto, kto_logit, mean_offset

BETA = 4.0  # the logit is twice the gain
everything = pytest.mark.parametrize("utility", UTILITY_LOSSES)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def h(u):
    return 1 / (1 + math.exp(-u))


UTILITIES = {  # as published, of u and the side y
    "sigmoid": lambda u, y: h(y * u),
    "loss-averse": lambda u, y: math.log(h(y * u)),
    "risk-seeking-1": lambda u, y: -y * math.log(h(-u)),
    "risk-seeking-2": lambda u, y: y * math.exp(u / 100) - 1,
    "risk-seeking-3": lambda u, y: -math.log(h(-y * u)),
}


@everything
@pytest.mark.parametrize("gain", [-3.0, 0.0, 0.4, 5.0])
def test_each_utility_is_its_formula_for_liked_and_disliked_images(utility, gain):
    u = 2 * (gain - 0.3)
    loss = kto(double(gain, gain), double(1, 0), BETA, 0.3, utility, lambda_liked=1.5, lambda_disliked=0.7)
    expected = [1.5 * (1 - UTILITIES[utility](u, 1)), 0.7 * (1 - UTILITIES[utility](u, -1))]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


@everything
def test_a_liked_image_is_pulled_and_a_disliked_one_pushed(utility):
    gain = double(0.2, 0.2).requires_grad_()
    (slope,) = torch.autograd.grad(kto(gain, double(1, 0), BETA, 0.1, utility).sum(), gain)
    assert slope[0] < 0 < slope[1]


@everything
def test_gradients_agree_with_finite_differences(utility):
    gain, p = double(-2, -0.1, 0.0, 0.4, 3).requires_grad_(), double(1, 0, 0.5, 3, -2)
    assert torch.autograd.gradcheck(lambda g: kto(g, p, BETA, 0.05, utility, 1.5, 0.7), gain)


@everything
@pytest.mark.parametrize("p", [-3.0, 0.3, 0.5, 4.0])
def test_soft_and_debiased_targets_mix_the_two_hard_labels(utility, p):
    gain = double(-1, 0.4, 2)
    loss = lambda value: kto(gain, torch.full_like(gain, value), BETA, 0.1, utility, 1.5, 0.7)  # noqa: E731
    torch.testing.assert_close(loss(p), p * loss(1.0) + (1 - p) * loss(0.0))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["sigmoid", "loss-averse", "risk-seeking-3"]), st.floats(-20, 20), st.floats(-3, 4))
def test_symmetric_utilities_turn_with_the_label(utility, gain, p):
    here = kto(double(gain), double(p), BETA, 0.0, utility)
    torch.testing.assert_close(kto(double(-gain), double(1 - p), BETA, 0.0, utility), here, rtol=1e-9, atol=1e-9)


def test_the_sigmoid_utility_forgets_extremes_and_averse_and_seeking_ones_keep_one_side():
    gain = double(-100, 100).requires_grad_()
    for utility, expected in {"sigmoid": (0, 0), "loss-averse": (-2, 0), "risk-seeking-3": (0, -2)}.items():
        (slope,) = torch.autograd.grad(kto(gain, double(1, 1), BETA, 0.0, utility).sum(), gain)
        assert slope.tolist() == pytest.approx(expected, abs=1e-9)


def test_the_logit_holds_half_of_beta_and_the_offset_has_no_gradient():
    gain, offset = double(0.5, 0.1).requires_grad_(), torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    u = kto_logit(gain, 2000, offset)
    assert u.tolist() == pytest.approx([300, -100])
    of_gain, of_offset = torch.autograd.grad(u.sum(), [gain, offset], allow_unused=True)
    assert of_gain.tolist() == [1000, 1000] and of_offset is None


def test_the_mean_offset_is_clamped_at_zero_and_has_no_gradient():
    gain = double(0.5, 0.1).requires_grad_()
    assert mean_offset(gain).item() == pytest.approx(0.3) and not mean_offset(gain).requires_grad
    assert mean_offset(-gain).item() == 0


def test_the_balanced_offset_weighs_both_sides_alike_and_is_not_clamped():
    gain = double(1, 2, 3, -10).requires_grad_()
    offset = balanced_offset(gain, double(1, 1, 1, 0))
    assert offset.item() == pytest.approx((2 - 10) / 2, rel=2e-6) and not offset.requires_grad
    assert balanced_offset(gain, double(1, 1, 1, 1)).item() == pytest.approx(-1 / 2, rel=2e-6)  # no disliked image: 0
    assert balanced_offset(gain, double(0, 0, 0, 0)).item() == pytest.approx(-1 / 2, rel=2e-6)
    soft = balanced_offset(double(1, 3), double(0.75, 0.25)).item()
    assert soft == pytest.approx(((0.75 + 0.75) + (0.25 + 2.25)) / 2, rel=2e-6)


@everything
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_and_half_precision_stay_finite_and_single(utility, dtype):
    gain = torch.tensor([-1e4, -300, 0.0, 300, 1e4]).to(dtype).requires_grad_()
    for p in (1.0, 0.0, 3.4):
        loss = kto(gain, torch.full_like(gain, p), 2.0, torch.tensor(0.0, dtype=dtype), utility)
        (gradient,) = torch.autograd.grad(loss.sum(), gain)
        assert loss.dtype == torch.float32 and loss.isfinite().all() and gradient.isfinite().all()


def test_an_unknown_utility_is_refused():
    with pytest.raises(PalateError, match="'averse' is not one of sigmoid, loss-averse.*did you mean 'loss-averse'"):
        kto(double(0.1), double(1), BETA, 0.0, "averse")
