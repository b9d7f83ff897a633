import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.objectives.nft import drift, nft


def drawn(seed=0, n=5):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, 3, 4, 4, dtype=torch.float64, generator=generator) for _ in range(2)]
    return parts[0], parts[0] + 0.1 * parts[1], 0.05 + torch.rand(n, dtype=torch.float64, generator=generator)


def gradient(ours, old, scale, r, reach=1.0):
    ours = ours.clone().requires_grad_()
    return torch.autograd.grad(nft(ours, old, scale, r, reach).sum(), ours)[0]


def per_image(values):
    return values.flatten(1).mean(dim=1).view(-1, 1, 1, 1)


@pytest.mark.parametrize("reach", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("r", [0.0, 0.3, 0.5, 1.0, 1.7])
def test_where_it_starts_the_gradient_is_that_of_a_weighted_regression_whatever_the_reach(reach, r):
    """(2r - 1) * s/mean|g| * mean g^2: towards liked images, away from disliked ones, nothing at one half."""
    _, old, scale = drawn()
    found = gradient(old, old, scale, torch.full((5,), r, dtype=torch.float64), reach)
    size = old.abs().flatten(1).mean(dim=1).view(-1, 1, 1, 1)
    expected = (2 * r - 1) * scale.view(-1, 1, 1, 1) / size * 2 * old / old[0].numel()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 4), st.floats(-3, 4), st.floats(0, 1), st.floats(0.1, 2))
def test_it_is_linear_in_the_target(r, q, mixing, reach):
    ours, old, scale = drawn()
    full = lambda value: torch.full((5,), value, dtype=torch.float64)  # noqa: E731
    between = mixing * gradient(ours, old, scale, full(r), reach) + (1 - mixing) * gradient(
        ours, old, scale, full(q), reach
    )
    torch.testing.assert_close(
        gradient(ours, old, scale, full(mixing * r + (1 - mixing) * q), reach), between, rtol=1e-8, atol=1e-10
    )


def test_votes_with_noise_of_mean_zero_leave_the_mean_gradient_where_it_is():
    """Targets such as debiased ones, outside of [0, 1], of mean r: over many draws the gradient is that of r."""
    ours, old, scale = drawn(n=1)
    generator = torch.Generator().manual_seed(1)
    n, r = 4000, 0.7
    votes = torch.where(torch.rand(n, generator=generator, dtype=torch.float64) < 0.25, 4 * r - 3 * 0.1, 0.1)
    assert votes.max() > 1
    many = [values.expand(n, *values.shape[1:]) for values in (ours, old, scale)]
    found = gradient(*many, votes)
    error = found.std(dim=0) / n**0.5
    exact = gradient(ours, old, scale, torch.tensor([r], dtype=torch.float64))[0]
    assert ((found.mean(dim=0) - exact).abs() < 4.5 * error + 1e-12).all()


def test_a_disliked_image_is_bounded_by_its_own_size():
    """Far away the loss grows as the size of the error and not as its square: the gradient stays bounded."""
    ours, old, scale = drawn()
    near, far = (
        gradient(old + k * (ours - old), old, scale, torch.zeros(5, dtype=torch.float64)).norm().item()
        for k in (1e3, 1e6)
    )
    assert far == pytest.approx(near, rel=1e-2)


def test_the_divisor_has_a_least_value_and_no_gradient():
    old = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    assert gradient(old, old, torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)).isfinite().all()
    ours, reference, scale = drawn()
    r = torch.ones(5, dtype=torch.float64)
    expected = 2 * scale.view(-1, 1, 1, 1) * ours / per_image(ours.abs()) / ours[0].numel()
    torch.testing.assert_close(gradient(ours, reference, scale, r), expected, rtol=1e-9, atol=1e-12)


def test_the_drift_is_the_mean_square_of_the_shift():
    ours, old, _ = drawn()
    torch.testing.assert_close(drift(ours - old), (ours - old).square().mean(dim=(1, 2, 3)))
