import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.errors import PalateError
from palate.objectives.links import LINKS
from palate.objectives.links_pulling import sigmoid
from palate.objectives.logit import denoising_error, logit
from palate.objectives.safeguard import loser_scale, protected_errors, pulls_image_0, scale_gradient


def image(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype).reshape(1, 1, 1, -1)


def random_residuals(seed=0, pairs=6, dtype=torch.float64):
    """Two residuals per pair with a common part, so that inner products are positive for most pairs."""
    generator = torch.Generator().manual_seed(seed)
    common, a, b = torch.randn(3, pairs, 4, 8, 8, dtype=dtype, generator=generator)
    size = torch.rand(2, pairs, 1, 1, 1, dtype=dtype, generator=generator) + 0.3
    return size[0] * (a + common), size[1] * (b + common)


WINNER = torch.tensor([True])


@pytest.mark.parametrize("mode", ["pair", "batch"])
@pytest.mark.parametrize(
    ("winner", "loser", "mu", "expected"),
    [
        ((1, 0), (2, 0), 0.5, 0.25),
        ((1, 0), (0, 3), 0.5, 1),
        ((1, 0), (-1, 0), 0.5, 1),
        ((0, 0), (1, 0), 0.5, 1),
        ((0, 0), (0, 0), 0.5, 1),
        ((1, 2), (1, 2), 0.0, 1),
        ((1, 2), (1, 2), 0.9, 0.1),
        ((1, 2), (3, 1), 1.0, 0),
    ],
)
def test_published_vectors(winner, loser, mu, expected, mode):
    assert loser_scale(image(*winner), image(*loser), WINNER, mu, mode).item() == pytest.approx(expected, abs=1e-12)
    assert loser_scale(image(*loser), image(*winner), ~WINNER, mu, mode).item() == pytest.approx(expected, abs=1e-12)


def test_a_vanishing_winner_residual_shuts_the_loser_off():
    scales = [loser_scale(image(size, 0.0), image(1.0, 0.0), WINNER, 0.5).item() for size in (1e-3, 1e-6, 1e-150)]
    assert scales == pytest.approx([5e-4, 5e-7, 0], rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1), st.floats(-18, 18), st.sampled_from(["pair", "batch"]))
def test_a_common_scale_of_both_residuals_changes_nothing(seed, mu, exponent, mode):
    first, second = random_residuals(seed)
    pulled = torch.tensor([True, False] * 3)
    here = loser_scale(first, second, pulled, mu, mode)
    there = loser_scale(first * 10**exponent, second * 10**exponent, pulled, mu, mode)
    torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-12)
    assert here.min() >= 0 and here.max() <= 1


def test_single_precision_survives_residuals_whose_squares_underflow():
    first, second = random_residuals(dtype=torch.float32)
    pulled = torch.ones(6, dtype=torch.bool)
    expected = loser_scale(first, second, pulled, 0.9)
    assert expected.max() < 1  # the safeguard acts on every pair here
    torch.testing.assert_close(loser_scale(first * 1e-25, second * 1e-25, pulled, 0.9), expected)
    half = loser_scale((first * 1e-4).half(), (second * 1e-4).half(), pulled, 0.9)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0.05, atol=0.01)


def test_resolution_and_batch_size_do_not_enter():
    first, second = random_residuals()
    pulled = torch.tensor([True, True, False, False, True, False])
    tiled = loser_scale(first.repeat(1, 1, 3, 3), second.repeat(1, 1, 3, 3), pulled, 0.8)
    torch.testing.assert_close(tiled, loser_scale(first, second, pulled, 0.8))
    one = torch.cat([loser_scale(first[i : i + 1], second[i : i + 1], pulled[i : i + 1], 0.8) for i in range(6)])
    torch.testing.assert_close(one, loser_scale(first, second, pulled, 0.8))
    twice = loser_scale(torch.cat([first] * 2), torch.cat([second] * 2), torch.cat([pulled] * 2), 0.8, "batch")
    torch.testing.assert_close(twice[:6], loser_scale(first, second, pulled, 0.8, "batch"))


def test_not_a_number_is_passed_on():
    first, second = random_residuals()
    first[2, 0, 0, 0] = torch.nan
    pulled = torch.ones(6, dtype=torch.bool)
    broken = loser_scale(first, second, pulled, 0.5).isnan()
    assert broken.tolist() == [False, False, True, False, False, False]
    assert loser_scale(first, second, pulled, 0.5, "batch").isnan().all()
    second[4, 0, 0, 0] = torch.inf
    assert loser_scale(first, second, pulled, 0.5).isnan().tolist() == [False, False, True, False, True, False]


@pytest.mark.parametrize("mu", [0.0, 0.3, 0.9])
def test_the_winner_never_gets_worse_by_a_small_step(mu):
    """Steps in output space: the pulled error falls by at least the share mu of its fall without the other image."""
    winner, loser = random_residuals(seed=3)
    loser = 3 * loser
    pulled = torch.tensor([True, False, True, False, True, False])
    shape = pulled.reshape(-1, 1, 1, 1)
    first, second = torch.where(shape, winner, loser), torch.where(shape, loser, winner)
    lam = loser_scale(first, second, pulled, mu).reshape(-1, 1, 1, 1)
    change = -((winner - lam * loser) * winner).sum(dim=(1, 2, 3)) / winner.square().sum(dim=(1, 2, 3))
    assert (change <= -mu + 1e-9).all()
    unguarded = -((winner - loser) * winner).sum(dim=(1, 2, 3))
    assert (unguarded > 0).any()  # without the safeguard some winners would get worse


@pytest.mark.parametrize("p", [1.0, 0.0, 0.7, 3.4, -2.0])
@pytest.mark.parametrize("link", LINKS.values())
def test_pulled_is_the_image_whose_error_a_step_lowers(p, link):
    error_0, error_1 = (torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64, requires_grad=True) for _ in range(2))
    reference = torch.tensor([0.1, 0.25, 0.2], dtype=torch.float64)
    z = logit(error_0, error_1, reference, reference.flip(0), beta=40)
    target = torch.full_like(z, p)
    link(z, target).sum().backward()
    pulled = pulls_image_0(z, target, link)
    moving = error_0.grad != 0
    assert torch.equal(pulled[moving], (error_0.grad > 0)[moving])
    assert torch.equal(pulled[moving], ~(error_1.grad > 0)[moving])
    if link is sigmoid:
        assert torch.equal(pulled, target > torch.sigmoid(z))
    with torch.no_grad():
        assert torch.equal(pulls_image_0(z, target, link), pulled)


def test_scaling_keeps_the_value_and_multiplies_the_gradient():
    error = torch.rand(5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    lam = torch.tensor([0.0, 0.25, 0.5, 1.0, 0.1])
    scaled = scale_gradient(error, lam)
    assert torch.equal(scaled, error)
    scaled.sum().backward()
    assert torch.equal(error.grad, lam)


@pytest.mark.parametrize("mode", ["pair", "batch", "published"])
def test_the_loss_keeps_its_value_and_only_the_other_image_is_damped(mode):
    first, second = random_residuals(seed=5)
    target = torch.tensor([1.0, 0.0, 0.8, -1.5, 3.4, 0.3], dtype=torch.float64)

    def gradients(guarded):
        prediction_0, prediction_1 = first.clone().requires_grad_(), second.clone().requires_grad_()
        zero = torch.zeros_like(first)
        error_0, error_1 = denoising_error(prediction_0, zero), denoising_error(prediction_1, zero)
        reference = torch.full_like(error_0, 0.5)
        z = logit(error_0, error_1, reference, reference, beta=3)
        pulled = pulls_image_0(z, target)
        lam = loser_scale(prediction_0, prediction_1, pulled, 0.9, mode)
        if guarded:
            error_0, error_1 = protected_errors(error_0, error_1, pulled, lam)
            z = logit(error_0, error_1, reference, reference, beta=3)
        loss = sigmoid(z, target).mean()
        return loss, pulled, lam, *torch.autograd.grad(loss, (prediction_0, prediction_1))

    loss, pulled, lam, plain_0, plain_1 = gradients(False)
    guarded_loss, _, _, guarded_0, guarded_1 = gradients(True)
    assert guarded_loss.item() == loss.item()
    assert pulled.any() and (~pulled).any() and lam.min() < 0.9
    factor_0, factor_1 = torch.where(pulled, 1, lam), torch.where(pulled, lam, 1)
    torch.testing.assert_close(guarded_0, plain_0 * factor_0.reshape(-1, 1, 1, 1))
    torch.testing.assert_close(guarded_1, plain_1 * factor_1.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize(("mu", "mode"), [(1.2, "pair"), (-0.1, "pair"), (float("nan"), "pair"), (0.5, "pixel")])
def test_bad_settings_get_one_clear_line(mu, mode):
    with pytest.raises(PalateError, match="safeguard"):
        loser_scale(*random_residuals(), torch.ones(6, dtype=torch.bool), mu, mode)
