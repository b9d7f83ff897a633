import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.objectives.dspo import SWITCH, dspo_sd15, dspo_sdxl
from palate.objectives.links import squared_sigmoid


def images(seed=0, pairs=3, scale=1.0, dtype=torch.float64):
    """Residuals and shifts of both images, [pairs, 2, 3, 3] each."""
    generator = torch.Generator().manual_seed(seed)
    r0, r1, d0, d1 = scale * torch.randn(4, pairs, 2, 3, 3, dtype=torch.float64, generator=generator)
    return (r0.to(dtype), r1.to(dtype)), (d0.to(dtype), d1.to(dtype))


def by_hand(residual, shift, z_w, beta):
    rest = 1 - 1 / (1 + torch.exp(-z_w))
    return torch.stack([((r - beta * s * d) ** 2).mean() for r, s, d in zip(residual, rest, shift, strict=True)])


Z = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64)
ONES = torch.ones(3, dtype=torch.float64)
small = 0.1  # shifts of this size are below the switch, of size 1 above


def test_hard_labels_give_the_published_regression_of_the_winner():
    residuals, shifts = images()
    torch.testing.assert_close(dspo_sd15(residuals, shifts, Z, ONES, 0.3), by_hand(residuals[0], shifts[0], Z, 0.3))
    torch.testing.assert_close(
        dspo_sd15(residuals, shifts, Z, 0 * ONES, 0.3), by_hand(residuals[1], shifts[1], -Z, 0.3)
    )


def test_at_the_published_beta_it_is_the_winners_denoising_error():
    residuals, shifts = images()
    error = residuals[0].square().flatten(1).mean(dim=1)
    loss = dspo_sd15(residuals, shifts, Z, ONES, 0.001)
    torch.testing.assert_close(loss, error, rtol=2e-3, atol=0)
    assert not torch.equal(loss, error)


def test_the_sigmoid_is_not_detached():
    residuals, shifts = images()
    z = Z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(dspo_sd15(residuals, shifts, z, ONES, 2.0).sum(), z)
    step = 1e-6
    change = by_hand(residuals[0], shifts[0], Z + step, 2.0) - by_hand(residuals[0], shifts[0], Z - step, 2.0)
    torch.testing.assert_close(gradient, change / (2 * step), rtol=1e-7, atol=1e-9)
    assert gradient.abs().min() > 1e-4


@pytest.mark.parametrize("scale", [small, 1.0])
def test_sdxl_is_a_squared_sigmoid_below_the_switch_and_weighs_it_by_the_shift_above(scale):
    _, shifts = images(scale=scale)
    rest, square = 1 - torch.sigmoid(Z), shifts[0].square().flatten(1).mean(dim=1)
    assert (square.mean() >= SWITCH) == (scale == 1.0)
    expected = rest**2 * (square if scale == 1.0 else 1)
    torch.testing.assert_close(dspo_sdxl(shifts, Z, ONES), expected)
    torch.testing.assert_close(dspo_sdxl(shifts[::-1], -Z, 0 * ONES), expected)


def test_the_switch_is_one_decision_for_the_batch_and_sits_at_its_value():
    shift = torch.tensor([0.1, 0.4], dtype=torch.float64).sqrt().view(2, 1, 1, 1).expand(2, 1, 2, 2)
    z, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    above, below = (dspo_sdxl((shift, shift), z, one, switch) for switch in (0.25 - 1e-9, 0.25 + 1e-9))
    assert above.tolist() == pytest.approx([0.25 * 0.1, 0.25 * 0.4]) and below.tolist() == [0.25, 0.25]
    exact = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    assert dspo_sdxl((exact, exact), z[:1], one[:1], 0.25).item() == 0.25 * 0.25  # reached, not exceeded
    other = (10 * shift, shift)
    assert dspo_sdxl(other, z, 0 * one, 0.3).tolist() == [0.25, 0.25]  # the loser's shift does not count


def test_the_shift_has_a_gradient_only_above_the_switch():
    for scale in (small, 1.0):
        _, shifts = images(scale=scale)
        shift = shifts[0].requires_grad_()
        loss = dspo_sdxl((shift, shifts[1]), Z.clone().requires_grad_(), ONES).sum()
        (gradient,) = torch.autograd.grad(loss, shift, allow_unused=True)
        assert (gradient is not None and gradient.abs().max() > 0) == (scale == 1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.floats(-30, 30), st.floats(-3, 4), st.sampled_from([small, 1.0]))
def test_swapping_the_images_changes_nothing(seed, z, p, scale):
    residuals, shifts = images(seed, 2, scale)
    z, p = (torch.tensor([value, 0.5], dtype=torch.float64) for value in (z, p))
    here = dspo_sd15(residuals, shifts, z, p, 0.7)
    torch.testing.assert_close(dspo_sd15(residuals[::-1], shifts[::-1], -z, 1 - p, 0.7), here, rtol=1e-9, atol=1e-9)
    swapped = dspo_sdxl(shifts[::-1], -z, 1 - p)
    torch.testing.assert_close(swapped, dspo_sdxl(shifts, z, p), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("p", [-3.0, 0.3, 0.5, 4.0])
@pytest.mark.parametrize("switch", [0.0, 1e9])
def test_soft_and_debiased_targets_mix_the_two_hard_labels(p, switch):
    residuals, shifts = images()
    for loss in (lambda t: dspo_sd15(residuals, shifts, Z, t, 0.7), lambda t: dspo_sdxl(shifts, Z, t, switch)):
        torch.testing.assert_close(loss(p * ONES), p * loss(ONES) + (1 - p) * loss(0 * ONES))


def test_a_debiased_target_counts_as_a_clipped_one_in_the_switch():
    _, (shift, _) = images(scale=0.5)
    other = torch.zeros_like(shift)
    level = shift.square().mean().item()
    for p, reached in ((4.0, True), (1.0, True), (0.5, False), (0.0, False), (-3.0, False)):
        weighed = dspo_sdxl((shift, other), Z, p * ONES, 0.9 * level)
        assert torch.allclose(weighed, squared_sigmoid(Z, p * ONES)) != reached
        torch.testing.assert_close(dspo_sdxl((shift, other), Z, p * ONES, 1.1 * level), squared_sigmoid(Z, p * ONES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_and_half_precision_stay_finite_and_single(dtype):
    residuals, shifts = images(dtype=dtype)
    z = torch.tensor([-1e4, 0.0, 1e4]).to(dtype).requires_grad_()
    beta = 5000.0 if dtype == torch.float32 else 50.0  # the gradient returns in the dtype of z
    for p in (1.0, 0.0, 3.4):
        target = torch.full((3,), p, dtype=dtype)
        for loss in (dspo_sd15(residuals, shifts, z, target, beta), dspo_sdxl(shifts, z, target)):
            (gradient,) = torch.autograd.grad(loss.sum(), z)
            assert loss.dtype == torch.float32 and loss.isfinite().all() and gradient.isfinite().all()
