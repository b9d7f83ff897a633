import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from palate.errors import PalateError
from palate.objectives.links import LINEAR_IN_LABEL, LINK_PARAMETERS, LINKS, linear_in_label, make_link
from palate.objectives.links_giving_up import alpha_dpo, dmpo, gce, mixture, moving_alpha, squared_sigmoid
from palate.objectives.links_pulling import hinge, ipo, linear, poly, sigmoid, smoothed
from palate.objectives.safeguard import pulls_image_0

logits = st.floats(-30, 30)
targets = st.floats(-4, 5)
everything = pytest.mark.parametrize("name", sorted(LINKS))


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def slope(link, z, p):
    z = double(z).requires_grad_()
    return torch.autograd.grad(link(z, double(p)).sum(), z)[0].item()


def h(z):
    return 1 / (1 + math.exp(-z))


def fixed(name):
    """The link with a constant alpha: the moving one changes with z and carries no gradient."""
    return make_link(name, 0.3) if name == "alpha-dpo" else LINKS[name]


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


# What every link does ------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(LINKS)), logits, targets)
def test_swapping_the_images_changes_nothing(name, z, p):
    assume(p == 0.5 or abs(p - 0.5) > 1e-9)  # 1 - p of a near tie rounds to a tie, which has no side
    link = LINKS[name]
    expected = link(double(z, 0.7), double(p, 0.9))
    swapped = link(double(-z, 0.7), double(1 - p, 0.9))
    torch.testing.assert_close(swapped, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(LINEAR_IN_LABEL | {"alpha-dpo"})), logits, targets, targets, st.floats(0, 1))
def test_slope_is_linear_in_the_target(name, z, p, q, mixing):
    link = fixed(name)
    between = mixing * slope(link, z, p) + (1 - mixing) * slope(link, z, q)
    assert slope(link, z, mixing * p + (1 - mixing) * q) == pytest.approx(between, rel=1e-9, abs=1e-9)


def test_what_is_not_linear_in_the_label_is_named():
    assert set(LINKS) - LINEAR_IN_LABEL == {"smoothed", "alpha-dpo"}
    assert slope(smoothed, 1.0, 0.5) == 0  # the mean of the hard slopes is not 0:
    assert slope(smoothed, 1.0, 1.0) + slope(smoothed, 1.0, 0.0) == pytest.approx(10 * math.tanh(5), rel=1e-12)
    mean = (slope(alpha_dpo, 2.0, 1.0) + slope(alpha_dpo, 2.0, 0.0)) / 2  # its moving alpha saw the favoured side
    assert abs(slope(alpha_dpo, 2.0, 0.5) - mean) > 1e-3
    assert not linear_in_label("alpha-dpo") and linear_in_label("alpha-dpo", 0.5)
    assert not linear_in_label("smoothed", 1.0) and linear_in_label("dmpo", 0.1)


@everything
def test_gradients_agree_with_finite_differences(name):
    generator = torch.Generator().manual_seed(0)
    z = (3 * torch.randn(12, dtype=torch.float64, generator=generator)).requires_grad_()
    p = 2 * torch.randn(12, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda value: fixed(name)(value, p), z)


@everything
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_logits_stay_finite(name, dtype):
    z = torch.tensor([-1e4, -200, -1e-8, 0, 1e-8, 200, 1e4], dtype=dtype).repeat(5).requires_grad_()
    p = torch.tensor([-3, 0, 0.5, 1, 4], dtype=dtype).repeat_interleave(7)
    loss = LINKS[name](z, p)
    loss.sum().backward()
    assert loss.isfinite().all() and z.grad.isfinite().all()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(LINKS)),
    st.lists(st.tuples(st.floats(-1e4, 1e4, width=16), st.floats(-3, 4, width=16)), min_size=1, max_size=5),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_every_dtype_and_size_gives_a_finite_loss_in_single_precision_or_better(name, pairs, dtype):
    z, p = (torch.tensor(values).to(dtype).requires_grad_() for values in zip(*pairs, strict=True))
    loss = LINKS[name](z, p)
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and loss.shape == z.shape
    assert loss.isfinite().all() and gradient.isfinite().all()
    same = LINKS[name](z.detach().to(loss.dtype), p.detach().to(loss.dtype))
    torch.testing.assert_close(loss.detach(), same, rtol=0, atol=0)  # half precision inputs, not half precision inside


@everything
@pytest.mark.parametrize("p", [1.0, 0.0, 0.8, 3.4])
def test_single_precision_follows_double_precision(name, p):
    z = torch.linspace(-60, 60, 481, dtype=torch.float64)
    link = fixed(name)
    exact, close = z.clone().requires_grad_(), z.float().requires_grad_()
    for values in (exact, close):
        link(values, torch.full_like(values, p)).sum().backward()
    value = link(exact, torch.full_like(exact, p)).detach()
    torch.testing.assert_close(link(close, torch.full_like(close, p)).detach().double(), value, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(close.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)


# Hard labels: the published slopes, satisfied logits, limits and bounds ---------------------------------------------

ALPHAS = [0.0, 1e-12, 0.3, 0.4999, 0.5, 0.9, 0.9999, 1.0, 1.0001, 1.7, 2.0, 40.0]


def alpha_slope(z, alpha):
    q = h(z)
    return q * (1 - q) * (math.log(q) if alpha == 1 else math.expm1((alpha - 1) * math.log(q)) / (alpha - 1))


def linear_slope(z, eta):
    return -min(max(0.5 - 0.4 * z, eta), 1 - eta)


def mixture_slope(z, eta):
    """Of the released update: the posterior that the vote is right weighs both sides of the sigmoid link."""
    posterior = eta * h(z) / (eta * h(z) + (1 - eta) * (1 - h(z)))
    return -posterior * (1 - h(z)) + (1 - posterior) * h(z)


def dmpo_slope(z, alpha):
    return h(z) * (1 - h(z)) * (z - math.log((1 - alpha) / alpha))


SLOPES = {
    "sigmoid": (sigmoid, lambda z: -(1 - h(z))),
    "ipo": (ipo, lambda z: (z - 2) / 4),
    "hinge": (hinge, lambda z: -1.0 if z < 1 else 0.0),
    **{f"linear at {e}": (make_link("linear", e), lambda z, e=e: linear_slope(z, e)) for e in (0.0, 0.001, 0.2, 0.5)},
    "linear": (linear, lambda z: linear_slope(z, 0.001)),
    **{f"poly at {a}": (make_link("poly", a), lambda z, a=a: -(1 - h(z)) * (1 + a * h(z))) for a in (-1.0, 3.0, 8.0)},
    **{f"gce at {q}": (make_link("gce", q), lambda z, q=q: -(h(z) ** q) * (1 - h(z))) for q in (0.0, 0.5, 0.7, 1.0)},
    **{f"mixture at {e}": (make_link("mixture", e), lambda z, e=e: mixture_slope(z, e)) for e in (0.6, 0.9, 1.0)},
    "squared-sigmoid": (squared_sigmoid, lambda z: -2 * (1 - h(z)) ** 2 * h(z)),
    "smoothed": (smoothed, lambda z: -10 * h(-10 * z)),
    "smoothed at gain 2": (make_link("smoothed", 2), lambda z: -2 * h(-2 * z)),
    **{f"dmpo at {a}": (make_link("dmpo", a), lambda z, a=a: dmpo_slope(z, a)) for a in (1e-6, 0.01, 0.3)},
    **{f"alpha-dpo at {a}": (make_link("alpha-dpo", a), lambda z, a=a: alpha_slope(z, a)) for a in ALPHAS},
    **{
        f"holder at {g}": (make_link("holder", g), lambda z, g=g: -g * (1 + g) * h(z) ** g * (1 - h(z)) ** 2)
        for g in (0.5, 2, 5)
    },
}


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("z", [-20.0, -5.0, -0.3, 0.0, 0.8, 4.0, 9.0])
def test_slopes_of_hard_labels(name, z):
    link, expected = SLOPES[name]
    assert slope(link, z, 1.0) == pytest.approx(expected(z), rel=1e-8, abs=1e-15)
    assert slope(link, -z, 0.0) == pytest.approx(-expected(z), rel=1e-8, abs=1e-15)


@pytest.mark.parametrize("name", [n for n in SLOPES if not n.startswith("smoothed")])
@pytest.mark.parametrize("p", [0.5, 0.8, 4.0, -3.0])
def test_slopes_of_soft_and_debiased_labels_mix_those_of_both_sides(name, p):
    link, hard = SLOPES[name]
    for z in (-3.0, 0.4, 2.5):
        assert slope(link, z, p) == pytest.approx(p * hard(z) - (1 - p) * hard(-z), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("p", [-3.0, 0.2, 0.5, 1.0])
def test_slopes_at_zero_are_multiples_of_that_of_the_sigmoid(p):
    factors = {"sigmoid": 1, "ipo": 1, "linear": 1, "hinge": 2, "squared-sigmoid": 0.5, "smoothed": 10, "poly": 5}
    factors |= {"gce": 2**-0.5, "mixture": 0.8}
    for name, factor in (factors | {"dmpo": math.log(99) / 2}).items():
        assert slope(LINKS[name], 0.0, p) == pytest.approx(factor * (0.5 - p), abs=1e-12), name


def test_values_of_hard_labels_as_the_papers_write_them():
    q = h(1.3)
    z, one, zero = double(1.3, -1.3), double(1.0, 0.0), double(1.3)
    both = lambda link: link(z, one).tolist()  # noqa: E731
    expected = {
        "dmpo": q * math.log(q / 0.9) + (1 - q) * math.log((1 - q) / 0.1),
        "alpha-dpo": (q**0.3 - 0.7 - 0.3 * q) / (0.3 * -0.7),
        "holder": -4 * q**3 + 3 * q**4,
        "squared-sigmoid": (1 - q) ** 2,
        "linear": -1.3 / 2,
        "poly": -math.log(q) + 3 * (1 - q),
        "gce": (1 - q**0.7) / 0.7,
        "mixture": -math.log(0.8 * q + 0.2 * (1 - q)),
        "smoothed": math.log1p(math.exp(-20 * 1.3)),
    }
    parameters = {
        "dmpo": 0.1,
        "alpha-dpo": 0.3,
        "holder": 3,
        "smoothed": 20,
        "linear": 0.5,
        "poly": 3,
        "gce": 0.7,
        "mixture": 0.8,
    }
    for name, value in expected.items():
        assert both(make_link(name, parameters.get(name))) == pytest.approx([value, value], rel=1e-9), name
    assert smoothed(zero, double(0.7), 10).item() == pytest.approx(math.log1p(math.exp(-4 * 1.3)), rel=1e-9)


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("a", [1e-6, 0.01, 0.2])
def test_dmpo_and_the_smoothed_label_are_satisfied_at_the_same_logit(p, a):
    best = (2 * p - 1) * math.log((1 - a) / a)
    assert dmpo(double(best), double(p), a).item() == pytest.approx(0, abs=1e-12)
    for link, target in ((make_link("dmpo", a), p), (sigmoid, (1 - a) * p + a * (1 - p))):
        assert slope(link, best, target) == pytest.approx(0, abs=1e-12)
        assert slope(link, best - 0.1, target) < 0 < slope(link, best + 0.1, target)


def test_the_ends_of_dmpo_are_the_published_clamp():
    z, p = double(-3, 0.4, 20), double(1, 0.3, 0)
    for end, clamped in ((0.0, 1e-6), (1.0, 1 - 1e-6)):
        torch.testing.assert_close(make_link("dmpo", end)(z, p), dmpo(z, p, clamped), rtol=0, atol=0)
    best = math.log((1 - 1e-6) / 1e-6)
    assert slope(make_link("dmpo", 0.0), best, 1.0) == pytest.approx(0, abs=1e-12)
    assert slope(make_link("dmpo", 1.0), -best, 1.0) == pytest.approx(0, abs=1e-12)  # a vote that is always wrong


@pytest.mark.parametrize("p", [-3.0, 0.0, 0.2, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("margin", [0.5, 2.0, 5.0])
def test_ipo_has_the_slope_of_the_sigmoid_at_zero_and_stops_at_its_margin(p, margin):
    assert slope(lambda z, t: ipo(z, t, margin), 0.0, p) == pytest.approx(0.5 - p, abs=1e-12)
    assert slope(lambda z, t: ipo(z, t, margin), (2 * p - 1) * margin, p) == pytest.approx(0, abs=1e-12)
    assert ipo(double(1e6), double(p), margin).item() > 0  # bounded below, unlike the sigmoid link


def test_hinge_of_hard_labels():
    torch.testing.assert_close(hinge(double(0.3, 2, 0.3, -2), double(1, 1, 0, 0)), double(0.7, 0, 1.3, 0))


@pytest.mark.parametrize("name", ["dmpo", "alpha-dpo", "holder", "squared-sigmoid", "gce", "mixture"])
def test_links_that_give_up_a_contradicted_label(name):
    for p, side in ((1.0, 1.0), (0.0, -1.0)):
        assert abs(slope(fixed(name), -60 * side, p)) < 1e-6 < abs(slope(fixed(name), -side, p))
        assert slope(fixed(name), -side, p) * side < 0  # towards the label, until it is given up
    assert abs(slope(sigmoid, -60.0, 1.0)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("squared-sigmoid", 0, 1), ("holder", -1, 0), ("alpha-dpo", 0, 2), ("gce", 0, 2), ("mixture", -math.log(0.9), -math.log(0.1))],
)  # fmt: skip
def test_bounds_of_hard_labels_are_reached_at_both_ends(name, low, high):
    link = make_link(name, 0.5) if name == "alpha-dpo" else LINKS[name]
    loss = link(torch.linspace(-1e4, 1e4, 2001), torch.ones(2001))
    assert loss.min().item() == pytest.approx(low, abs=1e-6) and loss.max().item() == pytest.approx(high, abs=1e-6)


# Alpha-DPO ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_dpo_has_its_limits_at_both_ends_of_alpha(dtype):
    z = torch.linspace(-20, 20, 41, dtype=dtype)
    one, q = torch.ones_like(z), torch.sigmoid(z.double())
    rtol = 1e-5 if dtype == torch.float32 else 1e-6
    for alpha in (0, 1e-12, 1e-8):
        expected = torch.nn.functional.softplus(-z.double()) - torch.sigmoid(-z.double())
        torch.testing.assert_close(alpha_dpo(z, one, alpha).double(), expected, rtol=rtol, atol=1e-6)
    for alpha in (1, 1 - 1e-12, 1 - 1e-8):
        torch.testing.assert_close(alpha_dpo(z, one, alpha).double(), q * q.log() + 1 - q, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("alpha", [1e-7, 0.1, 0.49, 0.51, 0.9, 0.9999])
def test_alpha_dpo_keeps_its_digits_in_single_precision(alpha):
    z = torch.linspace(-8, 8, 33, dtype=torch.float64)
    q = torch.sigmoid(z)
    rest = 1 - alpha
    expected = ((alpha * q.log()).expm1() - alpha * (q.log().expm1())) / (
        -alpha * rest
    )  # double precision affords this
    single = alpha_dpo(z.float(), torch.ones(33), alpha).double()
    torch.testing.assert_close(single, expected, rtol=3e-6, atol=3e-7)


def test_alpha_dpo_has_no_jump_between_its_two_forms():
    z, one = torch.linspace(-50, 50, 101, dtype=torch.float64), torch.ones(101, dtype=torch.float64)
    below, above = (alpha_dpo(z, one, alpha) for alpha in (0.5 - 1e-12, 0.5))
    torch.testing.assert_close(below, above, rtol=1e-9, atol=1e-9)


def test_moving_alpha_is_the_mean_confidence_in_the_favoured_sides():
    z, p = double(2, 2, -1, 3), double(1, 0, -3, 0.5)
    expected = 0.9999 * (h(2) + h(-2) + h(1) + 0.5) / 4  # the tie counts one half, wherever its logit is
    assert moving_alpha(z, p).item() == pytest.approx(expected, rel=1e-12)
    assert not moving_alpha(z.requires_grad_(), p).requires_grad
    torch.testing.assert_close(alpha_dpo(z, p), alpha_dpo(z, p, expected), rtol=1e-12, atol=1e-12)


def test_a_logit_that_is_no_number_makes_the_loss_none_so_that_its_pairs_are_named():
    assert alpha_dpo(double(0.5, math.nan), double(1.0, 1.0)).isnan().all()


def test_moving_alpha_stays_usable_when_every_pair_is_saturated():
    for z in (-1e4, 1e4):
        values = torch.full((3,), z, requires_grad=True)
        loss = alpha_dpo(values, torch.ones(3))
        loss.sum().backward()
        expected = -z - 1 if z < 0 else 0.0  # alpha = 0: -log h + h - 1
        assert loss.tolist() == pytest.approx([expected] * 3, rel=1e-5, abs=1e-6) and values.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_dpo_above_one_is_bounded_by_one_over_alpha_and_half_the_squared_sigmoid_at_two(dtype):
    z = torch.linspace(-1e4, 1e4, 2001, dtype=dtype)
    one = torch.ones_like(z)
    torch.testing.assert_close(alpha_dpo(z, one, 2), squared_sigmoid(z, one) / 2, rtol=1e-5, atol=1e-7)
    for alpha in (1.0, 1 + 1e-9, 1.7, 2, 300):
        loss = alpha_dpo(z, one, alpha)
        assert loss.min() >= -1e-7 and loss.max().item() == pytest.approx(1 / alpha, rel=1e-5)
    q = h(1.3)
    expected = (q**1.7 - (1 - 1.7) - 1.7 * q) / (1.7 * 0.7)
    assert alpha_dpo(double(1.3), double(1.0), 1.7).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_factor_of_the_moving_alpha_multiplies_the_mean(factor):
    z, p = double(2, -1), double(1, 1)
    assert moving_alpha(z, p, factor).item() == pytest.approx(factor * (h(2) + h(-1)) / 2, rel=1e-12)


# Which links are one another ------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(logits, targets)
def test_links_that_are_others_at_some_parameter(z, p):
    z, p = double(z), double(p)
    same = {
        "no pull left, linear is ipo between its knees": (linear(z.clamp(-1.25, 1.25), p, 0.0), ipo(z.clamp(-1.25, 1.25), p, 1.25)),
        "half the pull left, linear is constant": (linear(z, p, 0.5), -(p - 0.5) * z),
        "poly at -1 is alpha-dpo at 0": (poly(z, p, -1), alpha_dpo(z, p, 0)),
        "poly at 0 is the sigmoid": (poly(z, p, 0), sigmoid(z, p)),
        "gce at 0 is the sigmoid": (gce(z, p, 0), sigmoid(z, p)),
        "gce near 0 is the sigmoid": (gce(z, p, 1e-9), sigmoid(z, p)),
        "votes that are always right": (mixture(z, p, 1.0), sigmoid(z, p)),
    }  # fmt: skip
    for what, (one, other) in same.items():
        if "ipo" in what:  # up to a constant, which depends on p alone
            one, other = one - linear(0 * z, p, 0.0), other - ipo(0 * z, p, 1.25)
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6, msg=what)


@pytest.mark.parametrize("eta", [0.0, 0.001, 0.2])
def test_linear_dpo_pulls_less_and_less_and_never_more_than_its_two_ends(eta):
    knee = 1.25 - 2.5 * eta
    link = make_link("linear", eta)
    assert [slope(link, z, 1.0) for z in (knee + 0.1, 50)] == pytest.approx([-eta, -eta])
    assert [slope(link, z, 1.0) for z in (-knee - 0.1, -50)] == pytest.approx([eta - 1, eta - 1])
    for p in (0.2, 0.9):  # between the knees a soft label is satisfied where ipo is
        z = 1.25 * (2 * p - 1)
        assert slope(link, z, p) == pytest.approx(0, abs=1e-12) or abs(z) > knee


def test_poly_dpo_pulls_most_where_the_policy_is_undecided():
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    slopes = torch.tensor([slope(make_link("poly", 8), value, 1.0) for value in z.tolist()])
    at = torch.sigmoid(z[slopes.argmin()]).item()
    assert at == pytest.approx((8 - 1) / (2 * 8), abs=2e-3) and slope(make_link("poly", 8), 0.0, 1.0) == -2.5


@pytest.mark.parametrize("name", sorted(LINEAR_IN_LABEL))
def test_debiased_targets_are_unbiased_in_every_link_that_is_linear_in_its_label(name):
    """Over random labelled quarters, with a judge that is wrong: the mean slope is that of all people's votes."""
    generator = torch.Generator().manual_seed(4)
    z = 2 * torch.randn(40, dtype=torch.float64, generator=generator)
    votes = (torch.rand(40, generator=generator) < 0.7).double()
    judge = 0.9 - 0.6 * votes
    picked = torch.rand(3000, 40, generator=generator, dtype=torch.float64) < 0.25
    leaf_ = z.expand(3000, 40).clone().requires_grad_()
    target = judge + picked / 0.25 * (votes - judge)
    (slopes,) = torch.autograd.grad(LINKS[name](leaf_, target).sum(), leaf_)
    means = slopes.mean(dim=1)
    exact = sum(slope(LINKS[name], a, b) for a, b in zip(z.tolist(), votes.tolist(), strict=True)) / 40
    biased = sum(slope(LINKS[name], a, b) for a, b in zip(z.tolist(), judge.tolist(), strict=True)) / 40
    assert abs(means.mean().item() - exact) < 4 * means.std().item() / 3000**0.5 < abs(biased - exact)


# Small gradients, the safeguard, and making a link by name -----------------------------------------------------------


def test_a_satisfied_hard_label_keeps_its_small_gradient_in_single_precision():
    z = torch.tensor([25.0], requires_grad=True)
    sigmoid(z, torch.ones(1)).sum().backward()
    assert z.grad.item() == pytest.approx(-math.exp(-25), rel=1e-4)


@pytest.mark.parametrize("z", [-25.0, 25.0])
def test_dmpo_and_the_squared_sigmoid_keep_their_small_gradients_in_single_precision(z):
    leaf = torch.tensor([z], requires_grad=True)
    (gradient,) = torch.autograd.grad(dmpo(leaf, torch.ones(1)).sum(), leaf)
    assert gradient.item() == pytest.approx(math.exp(-25) * (z - math.log(99)), rel=1e-4)
    (gradient,) = torch.autograd.grad(squared_sigmoid(leaf, torch.ones(1)).sum(), leaf)
    assert gradient.item() == pytest.approx(-2 * math.exp(-25 if z < 0 else -50), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "parameter", "power"), [("alpha-dpo", 0.25, 0.25), ("alpha-dpo", 0.75, 0.75), ("holder", 2, 2)]
)
def test_the_last_pull_of_a_contradicted_label_is_a_power_of_h_in_single_precision(name, parameter, power):
    at = -30.0 if name == "holder" else -60.0
    z = torch.tensor([at], requires_grad=True)
    (gradient,) = torch.autograd.grad(make_link(name, parameter)(z, torch.ones(1)).sum(), z)
    factor = 6 if name == "holder" else 1 / (1 - parameter)
    assert gradient.item() == pytest.approx(-factor * math.exp(at * power), rel=1e-4)


def test_the_safeguard_reads_which_image_a_link_pulls():
    z, p = double(0, 0, 4, 5), double(1, 0, 1, 1)
    assert pulls_image_0(z, p, make_link("dmpo", 0.01)).tolist() == [True, False, True, False]  # beyond 4.6 it turns


@pytest.mark.parametrize(("name", "entry"), LINK_PARAMETERS.items())
def test_the_parameter_of_a_made_link_is_bound_and_its_default_is_that_of_the_function(name, entry):
    z, p = double(0.3, -2, 1), double(1, 0.2, 0)
    value = 0.75 if name == "mixture" else 0.25
    expected = LINKS[name](z, p, **{entry.keyword: value})
    torch.testing.assert_close(make_link(name, value)(z, p), expected, rtol=0, atol=0)
    assert not torch.allclose(make_link(name)(z, p), expected)
    if entry.default is not None:
        torch.testing.assert_close(make_link(name)(z, p), make_link(name, entry.default)(z, p), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("link", "parameter"),
    [(alpha_dpo, -0.1), (dmpo, -0.1), (dmpo, 1.5), (linear, 0.6), (linear, -0.1), (poly, -2.0),
     (gce, 1.5), (mixture, 0.4), (mixture, 1.1)],
)  # fmt: skip
def test_a_link_called_by_itself_refuses_a_parameter_for_which_its_formula_is_another(link, parameter):
    with pytest.raises(PalateError, match=r"is outside \["):
        link(double(0.5), double(1.0), parameter)


@pytest.mark.parametrize(
    ("name", "parameter", "words"),
    [
        ("sigmoyd", None, ["'sigmoyd'", "sigmoid, ipo, hinge", "linear"]),
        ("hinge", 0.1, ["no parameter", "ipo (margin)", "smoothed (gain)"]),
        ("ipo", 0, ["margin 0", "(0, inf)", "2"]),
        ("ipo", math.inf, ["margin inf"]),
        ("dmpo", 1.1, ["alpha 1.1", "[0, 1]", "0.01"]),
        ("dmpo", -0.1, ["alpha -0.1"]),
        ("alpha-dpo", math.inf, ["alpha inf", "[0, inf)", "Leave it out"]),
        ("alpha-dpo", -0.1, ["alpha -0.1"]),
        ("linear", 0.51, ["eta 0.51", "[0, 0.5]", "0.001"]),
        ("poly", -1.01, ["alpha -1.01", "[-1, inf)", "8"]),
        ("gce", 1.01, ["q 1.01", "[0, 1]"]),
        ("mixture", 0.5, ["eta 0.5", "(0.5, 1]", "0.9"]),
        ("holder", -1, ["gamma -1"]),
        ("smoothed", math.nan, ["gain nan"]),
    ],
)
def test_a_wrong_name_or_parameter_is_refused_in_one_line(name, parameter, words):
    with pytest.raises(PalateError) as caught:
        make_link(name, parameter)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
