import math

import pytest
import torch

from palate.errors import PalateError
from palate.objectives.adaptive import adaptive_margin, adaptive_weight, label_side, minority_metric, winner_margin
from palate.objectives.links import sigmoid


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
