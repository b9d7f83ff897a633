import math

import pytest
import torch

from palate.errors import PalateError
from palate.objectives.adaptive import (
    adaptive_margin,
    adaptive_weight,
    flipped_votes,
    ipo_margin,
    label_side,
    metric_after_flips,
    minority_metric,
    minority_parts,
    relative_metric,
    winner_margin,
)
from palate.objectives.links_pulling import ipo, sigmoid


def random_margins(seed=0, annotators=3, pairs=16):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(1, pairs, dtype=torch.float64, generator=generator)
    return 1e-3 * (common + 0.5 * torch.randn(annotators, pairs, dtype=torch.float64, generator=generator))


def test_metric_by_hand():
    """Two pairs, margins (3, -4) and (4, -3): normalised by 5, times rho = 0.5."""
    u = minority_metric(torch.tensor([[3.0, -4.0], [4.0, -3.0]], dtype=torch.float64), rho=0.5)
    s = [(0.3, 0.4), (-0.4, -0.3)]
    expected = [(1 - sum(1 / (1 + math.exp(-v)) for v in pair) / 2) * 0.1 / math.sqrt(2) for pair in s]
    assert u.tolist() == pytest.approx(expected, rel=1e-12)


def test_metric_is_scale_free_per_annotator_and_within_range():
    margins = random_margins()
    u = minority_metric(margins)
    torch.testing.assert_close(minority_metric(margins * torch.tensor([[1.0], [50.0], [0.01]])), u)
    assert u.min() >= 0 and u.max() < 1
    assert minority_metric(margins, normalise=False).max() < 0.02 < u.max()  # raw margins are too small for rho 15


def test_spread_is_capped_and_doubt_decides_then():
    margins = torch.tensor([[1.0, -1.0], [-1.0, -1.0], [1.0, -1.0]], dtype=torch.float64)
    s = 15 / math.sqrt(2)
    confident = [sum(1 / (1 + math.exp(-sign * s)) for sign in (1, -1, 1)) / 3, 1 / (1 + math.exp(s))]
    assert minority_metric(margins)[0].item() == pytest.approx(1 - confident[0], rel=1e-9)
    assert minority_metric(margins)[1].item() == 0  # all agree, however strongly against the label


def test_one_annotator_has_no_spread():
    u = minority_metric(torch.tensor([[0.3, -0.4]], dtype=torch.float64), rho=1.0, normalise=False)
    assert u.tolist() == pytest.approx([1 / (1 + math.exp(0.3)), 1 / (1 + math.exp(-0.4))], rel=1e-12)


def test_policy_equal_to_the_reference_gives_zero_and_full_weight():
    u = minority_metric(torch.zeros(3, 4))
    assert torch.equal(u, torch.zeros(4))
    assert torch.equal(adaptive_weight(u), torch.ones(4))


def test_weight():
    assert adaptive_weight(torch.tensor([0.0, 0.1, 1.0])).tolist() == pytest.approx([1, 0.5, 1 / 11])
    assert adaptive_weight(torch.tensor([0.5]), k1=4, c=2).item() == pytest.approx(0.25)


def test_margins_of_both_scales():
    ell, u = torch.tensor([[0.001, 0.003], [0.5, 0.1]], dtype=torch.float64)
    beta = 2000.0
    published, inside = adaptive_margin(ell, u, beta), adaptive_margin(ell, u, beta, "inside")
    assert published.tolist() == pytest.approx([0.002 - 0.25e-3, 0.002 - 0.01e-3], rel=1e-12)
    torch.testing.assert_close(inside, published * beta / 2)
    assert torch.equal(adaptive_margin(ell, u, beta, "off"), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(PalateError, match="adaptive margin"):
        adaptive_margin(ell, u, beta, "outside")


def test_no_gradient_flows_through_weights_and_margins():
    margins = random_margins().requires_grad_()
    u = minority_metric(margins)
    assert not any(t.requires_grad for t in (u, adaptive_weight(u), adaptive_margin(margins[0], u, 2000.0)))


def test_soft_and_debiased_targets_take_the_side_they_prefer():
    target = torch.tensor([1.0, 0.0, 0.7, 0.3, 3.4, -1.5, 0.5])
    assert label_side(target).tolist() == [1, -1, 1, -1, 1, -1, 0]
    z = torch.full((7,), 2.0)
    expected = [0.004, -0.004, 0.004, -0.004, 0.004, -0.004, 0]
    assert winner_margin(z, target, beta=1000.0).tolist() == pytest.approx(expected)


def test_swapping_the_images_changes_no_loss():
    """The whole chain: z -> -z and p -> 1 - p leave the metric, the weight and the loss as they are."""
    generator = torch.Generator().manual_seed(1)
    z, slow, fast = torch.randn(3, 8, dtype=torch.float64, generator=generator)
    target = torch.tensor([1.0, 0, 1, 0.8, 0.2, 2.5, -1.5, 0.5], dtype=torch.float64)

    def losses(sign, target):
        margins = torch.stack([winner_margin(sign * value, target, 2000.0) for value in (z, slow, fast)])
        u = minority_metric(margins)
        margin = label_side(target) * adaptive_margin(margins[0], u, 2000.0, "inside")
        return adaptive_weight(u) * sigmoid(sign * z - margin, target)

    torch.testing.assert_close(losses(-1, 1 - target), losses(1, target))
    assert losses(1, target).std() > 0


def test_tie_is_never_a_minority():
    margins = torch.stack([winner_margin(torch.randn(5), torch.full((5,), 0.5), 2000.0) for _ in range(3)])
    assert torch.equal(minority_metric(margins), torch.zeros(5))


def test_the_metric_is_doubt_times_spread_and_both_have_their_meaning():
    margins = torch.tensor([[0.2, -0.4, 0.1], [0.4, -0.2, 0.1]], dtype=torch.float64)
    doubt, spread = minority_parts(margins, rho=2.0, normalise=False)
    confident = torch.sigmoid(2 * margins).mean(dim=0)
    torch.testing.assert_close(doubt, 1 - confident)
    torch.testing.assert_close(spread, 2 * torch.tensor([0.2, 0.2, 0.0], dtype=torch.float64) / math.sqrt(2))
    torch.testing.assert_close(minority_metric(margins, 2.0, False), doubt * spread)
    assert minority_parts(100 * margins, normalise=False)[1][0] == 1  # the spread is capped, the doubt is not
    alone, one = minority_parts(margins[:1], rho=2.0, normalise=False)
    assert torch.equal(one, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(alone, torch.sigmoid(-2 * margins[0]))


def test_running_means_of_the_parts_are_less_noisy_than_those_of_one_draw():
    """A pair with a minority vote among fifteen others: over draws its doubt stands out."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.ones(16)
    truth[3] = -1
    draws = [
        minority_parts(
            0.3 * truth + torch.randn(1, 16, generator=generator) + 0.3 * torch.randn(3, 16, generator=generator)
        )
        for _ in range(200)
    ]
    doubt, spread = (torch.stack(parts) for parts in zip(*draws, strict=True))
    assert (doubt.mean(dim=0) * spread.mean(dim=0)).argmax() == 3
    first = (doubt * spread).argmax(dim=1)
    assert (first == 3).float().mean() < 0.5  # of single draws, fewer than half find it


def test_the_relative_metric_has_the_published_scales_and_leaves_zeros():
    u, spread = torch.tensor([0.1, 0.3, 0.0], dtype=torch.float64), torch.tensor([0.5, 1.0, 0.6], dtype=torch.float64)
    assert relative_metric(u, spread, "sum").tolist() == pytest.approx([0.25, 0.75, 0])
    assert relative_metric(u, spread, "mean_spread").tolist() == pytest.approx([0.1 / 0.7, 0.3 / 0.7, 0])
    nothing = torch.zeros(3)
    assert torch.equal(relative_metric(nothing, nothing, "sum"), nothing)
    assert torch.equal(relative_metric(nothing, nothing, "mean_spread"), nothing)
    with pytest.raises(PalateError, match="mean_spread or sum"):
        relative_metric(u, spread, "max")


def test_flips_take_the_suspected_votes_above_threshold_and_quantile():
    u = torch.tensor([0.9, 0.1, 0.7, 0.5])
    assert flipped_votes(u, 0.5, threshold=0.0).tolist() == [True, False, False, False]  # above entry 2, 0.7
    assert flipped_votes(u, 0.75, threshold=0.0).tolist() == [True, False, True, False]
    assert flipped_votes(u, 1.0, threshold=0.0).tolist() == [True, False, True, True]  # the smallest stays
    assert flipped_votes(u, 1.0, threshold=0.8).tolist() == [True, False, False, False]
    assert not flipped_votes(u, 1.0).any()  # the published threshold of 1
    assert not flipped_votes(u, 0.0, threshold=0.0).any()
    for ratio in (-0.1, 1.1):
        with pytest.raises(PalateError, match="outside"):
            flipped_votes(u, ratio)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_no_more_than_the_ratio_is_flipped(ratio):
    u = torch.rand(40, generator=torch.Generator().manual_seed(2))
    flipped = flipped_votes(u, ratio, threshold=0.0)
    assert 40 * ratio - 2 < flipped.sum() <= 40 * ratio + 1e-9
    assert not flipped.any() or u[flipped].min() > u[~flipped].max()


def test_the_metric_of_a_flipped_vote_is_kept_replaced_or_inverted():
    u, flipped = torch.tensor([0.9, 0.2]), torch.tensor([True, False])
    expected = {"keep": [0.9, 0.2], "constant": [0.8, 0.2], "inverse": [0.1, 0.2]}
    for change, values in expected.items():
        assert metric_after_flips(u, flipped, change).tolist() == pytest.approx(values)
    with pytest.raises(PalateError, match="keep, constant or inverse"):
        metric_after_flips(u, flipped, "drop")


@pytest.mark.parametrize(
    ("kind", "half"),
    [("linear", 1 / 6), ("quadratic", 1 / 3.5), ("sigmoid", 1 / (math.exp(5) + 1)), ("sqrt", 1 / (math.exp(math.sqrt(50)) + 1))],
)  # fmt: skip
def test_every_weight_falls_with_the_metric_and_survives_large_ones(kind, half):
    u = torch.tensor([0.0, 0.5, 1.0, 1e4])
    weight = adaptive_weight(u, kind=kind)
    assert weight[0] == (1 if kind in ("linear", "quadratic") else 0.5)
    assert weight[1].item() == pytest.approx(half, rel=1e-5)
    assert weight.isfinite().all() and (weight.diff() < 0).all()
    with pytest.raises(PalateError, match="quadratic, sigmoid or sqrt"):
        adaptive_weight(u, kind="quardratic")


def test_the_linear_margin_has_u_where_the_quadratic_one_has_its_square():
    ell, u = torch.tensor([0.001, 0.003], dtype=torch.float64), torch.tensor([0.5, 0.1], dtype=torch.float64)
    for scale in ("published", "inside"):
        linear = adaptive_margin(ell, u, 2000.0, scale, kind="linear")
        torch.testing.assert_close(linear, adaptive_margin(ell, u.sqrt(), 2000.0, scale))
        assert (linear - adaptive_margin(ell, u, 2000.0, scale)).abs().min() > 1e-5
    with pytest.raises(PalateError, match="quadratic or linear"):
        adaptive_margin(ell, u, 2000.0, kind="cubic")


def test_the_two_signs_of_the_ipo_margin_move_its_optimum_in_opposite_ways():
    """On the raw margin the published optimum is 1/(2*beta_ipo) - Gam/b, the consistent one 1/(2*beta_ipo) + Gam/b."""
    b, beta_ipo, gamma = 1000.0, 100.0, torch.tensor([0.4], dtype=torch.float64)
    for sign, shift in (("published", -1), ("consistent", 1)):
        ell = torch.tensor([1 / (2 * beta_ipo)], dtype=torch.float64) + shift * gamma / b
        z = (b * ell).requires_grad_()
        loss = ipo(z - ipo_margin(gamma, sign), torch.ones_like(z), b / (2 * beta_ipo))
        (slope,) = torch.autograd.grad(loss.sum(), z)
        assert slope.item() == pytest.approx(0, abs=1e-12) and loss.item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(PalateError, match="published or consistent"):
        ipo_margin(gamma, "both")


def test_without_doubt_it_is_preference_optimisation_shifted_by_the_mean():
    z, one = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    u, ell = torch.zeros(2, dtype=torch.float64), winner_margin(z, one, 2000.0)
    loss = adaptive_weight(u) * sigmoid(z - adaptive_margin(ell, u, 2000.0, "inside"), one)
    torch.testing.assert_close(loss, sigmoid(z - z.mean(), one))


def test_half_precision_is_not_used_inside():
    margins = random_margins().to(torch.bfloat16)
    assert all(part.dtype == torch.float32 for part in minority_parts(margins))
    torch.testing.assert_close(minority_metric(margins), minority_metric(margins.float()))


@pytest.mark.parametrize("value", [0.0, 1e-8, 1e4, -1e4])
def test_extreme_margins_stay_numbers(value):
    u = minority_metric(torch.tensor([[value, 0.0], [-value, 1e-6], [value, value]]))
    chain = (u, adaptive_weight(u, kind="sqrt"), adaptive_margin(torch.full((2,), value), u, 5000.0, "inside"))
    assert all(part.isfinite().all() for part in chain)
