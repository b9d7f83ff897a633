import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.objectives.links_pulling import sigmoid
from palate.objectives.ranking import plackett_luce, rankdpo


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ranks(*rows):
    return torch.tensor(rows)


def probability(scores, order):
    """Of one order under Plackett-Luce, by drawing without replacement."""
    left, product = list(order), 1.0
    for image in order:
        product *= math.exp(scores[image]) / sum(math.exp(scores[j]) for j in left)
        left.remove(image)
    return product


def rank_of(order):
    return [order.index(image) for image in range(len(order))]


LOSSES = {"plackett_luce": lambda s, order, mask=None: plackett_luce(s, order, mask), "rankdpo": lambda s, order, mask=None: rankdpo(s, 1.5 - order.to(s.dtype), mask)}  # fmt: skip


def test_the_probabilities_of_all_orders_sum_to_one_and_each_is_that_of_drawing_without_replacement():
    scores = normal(1, 4)
    orders = list(itertools.permutations(range(4)))
    losses = plackett_luce(scores.expand(len(orders), 4), ranks(*map(rank_of, orders)))
    assert (-losses).exp().sum().item() == pytest.approx(1, rel=1e-12)
    assert (-losses).exp().tolist() == pytest.approx([probability(scores[0].tolist(), o) for o in orders], rel=1e-10)


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_two_images_are_a_pair(a, b):
    scores = torch.tensor([[a, b]], dtype=torch.float64)
    z = torch.tensor([a - b], dtype=torch.float64)
    for order, target in (([0, 1], 1.0), ([1, 0], 0.0), ([5, 5], 0.5)):
        pair = sigmoid(z, torch.tensor([target], dtype=torch.float64))
        torch.testing.assert_close(plackett_luce(scores, ranks(order)), pair, rtol=1e-12, atol=0)
    hard = sigmoid(z, torch.ones(1, dtype=torch.float64)) * (0.7 - 0.2) * (1 - 1 / math.log2(3))
    gains = torch.tensor([[0.7, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(rankdpo(scores, gains), hard, rtol=1e-12, atol=0)


def test_two_tied_images_are_the_mean_over_both_orders_wherever_they_stand():
    scores = normal(1, 4)
    for tied in ([0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 2, 2]):
        first, second = [i for i in range(4) if tied.count(tied[i]) > 1]
        orders = [list(map(float, tied)) for _ in range(2)]
        orders[0][first] -= 0.5
        orders[1][second] -= 0.5
        strict = plackett_luce(scores.expand(2, 4), ranks(*orders))
        torch.testing.assert_close(plackett_luce(scores, ranks(tied)), strict.mean(dim=0, keepdim=True))


def test_larger_ties_are_near_the_mean_over_all_orders_and_level_at_equal_scores():
    scores = 0.7 * normal(1, 3)
    orders = ranks(*itertools.permutations(range(3)))
    mean = plackett_luce(scores.expand(6, 3), orders).mean().item()
    assert plackett_luce(scores, ranks([0, 0, 0])).item() == pytest.approx(mean, rel=0.1)
    level = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(plackett_luce(level, ranks([1, 1, 1, 1])).sum(), level)
    torch.testing.assert_close(slope, torch.zeros_like(level), atol=1e-12, rtol=0)
    apart = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    assert plackett_luce(apart, ranks([1, 1, 1, 1])) > plackett_luce(level.detach(), ranks([1, 1, 1, 1]))


def test_only_the_order_of_ranks_counts():
    scores = normal(2, 4)
    a, b = ranks([0, 1, 2, 3], [2, 0, 1, 1]), torch.tensor([[-7.5, 0.0, 0.1, 99.0], [3.0, -1.0, 2.0, 2.0]])
    torch.testing.assert_close(plackett_luce(scores, a), plackett_luce(scores, b))


def test_normalised_a_long_list_of_one_pair_weighs_as_a_pair():
    scores = torch.zeros(1, 5, dtype=torch.float64)
    order = ranks(range(5))
    total = sum(math.log(k) for k in (2, 3, 4, 5))
    assert plackett_luce(scores, order).item() == pytest.approx(total, rel=1e-12)
    assert plackett_luce(scores, order, normalise=True).item() == pytest.approx(total / 4, rel=1e-12)
    mask = torch.tensor([[True, True, False, False, False]])
    short = plackett_luce(scores, order, mask, normalise=True)
    assert short.item() == pytest.approx(math.log(2), rel=1e-12)
    assert plackett_luce(scores, order, torch.eye(5)[:1].bool(), normalise=True).item() == 0


def test_rankdpo_by_hand():
    """Gains 3, 0, 1: ranks 1, 3, 2; D = 1, 2, log2(3)."""
    s = [0.3, -0.2, 0.9]
    third = 1 / math.log2(3)

    def lost(i, j):
        return math.log1p(math.exp(s[j] - s[i]))

    expected = 3 * (1 - 0.5) * lost(0, 1) + 2 * (1 - third) * lost(0, 2) + 1 * (third - 0.5) * lost(2, 1)
    made = rankdpo(torch.tensor([s], dtype=torch.float64), torch.tensor([[3.0, 0, 1]]))
    assert made.item() == pytest.approx(expected, rel=1e-6)


def test_rankdpo_of_equal_gains_is_zero_and_a_scaled_gain_scales_it():
    scores, gains = normal(2, 4), torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rankdpo(scores, torch.ones(2, 4)), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(rankdpo(scores, 3 * gains), 3 * rankdpo(scores, gains))
    torch.testing.assert_close(rankdpo(scores, gains - 5), rankdpo(scores, gains))


def test_rankdpo_takes_no_gradient_of_the_gains():
    scores, gains = normal(1, 3).requires_grad_(), normal(1, 3, seed=1).requires_grad_()
    rankdpo(scores, gains).sum().backward()
    assert gains.grad is None and scores.grad.abs().min() > 0


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_order_in_which_images_are_stored_changes_nothing(name):
    scores, order = normal(3, 5), ranks([0, 1, 2, 3, 4], [1, 0, 0, 2, 3], [4, 4, 4, 1, 1])
    mask = torch.tensor([[True] * 5, [True] * 5, [True, True, False, True, True]])
    stored = torch.tensor([3, 0, 4, 2, 1])
    shuffled = LOSSES[name](scores[:, stored], order[:, stored], mask[:, stored])
    torch.testing.assert_close(shuffled, LOSSES[name](scores, order, mask))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_only_differences_of_scores_count(name):
    scores, order = normal(2, 4), ranks([0, 1, 2, 3], [1, 0, 0, 2])
    torch.testing.assert_close(LOSSES[name](scores + 100, order), LOSSES[name](scores, order))


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("junk", [0.0, 1e4, -1e4, math.inf, math.nan])
def test_padding_has_no_influence_on_value_or_gradient(name, junk):
    scores, order = normal(2, 3), ranks([0, 1, 2], [1, 0, 1])
    plain = scores.clone().requires_grad_()
    expected = LOSSES[name](plain, order)
    (gradient,) = torch.autograd.grad(expected.sum(), plain)

    padded = torch.cat([scores[:, :1], torch.full((2, 2), junk, dtype=torch.float64), scores[:, 1:]], dim=1)
    padded.requires_grad_()
    places = torch.cat([order[:, :1].double(), torch.full((2, 2), junk, dtype=torch.float64), order[:, 1:].double()], 1)
    mask = torch.tensor([[True, False, False, True, True]] * 2)
    made = LOSSES[name](padded, places, mask)
    torch.testing.assert_close(made, expected)
    (through,) = torch.autograd.grad(made.sum(), padded)
    torch.testing.assert_close(through[mask].view(2, 3), gradient)
    assert torch.equal(through[~mask], torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_lists_of_one_and_of_none_are_zero(name):
    scores = normal(2, 3).requires_grad_()
    mask = torch.tensor([[False, True, False], [False, False, False]])
    loss = LOSSES[name](scores, ranks([0, 1, 2], [2, 1, 0]), mask)
    assert torch.equal(loss.detach(), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(torch.autograd.grad(loss.sum(), scores)[0], torch.zeros_like(scores))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_agree_with_finite_differences(name):
    scores, order = normal(3, 4).requires_grad_(), ranks([0, 1, 2, 3], [1, 0, 0, 2], [3, 3, 3, 0])
    mask = torch.tensor([[True] * 4, [True] * 4, [True, True, False, True]])
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, order, mask), scores)


@pytest.mark.parametrize("name", sorted(LOSSES))
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4, width=32), st.integers(0, 3), st.booleans()), min_size=1, max_size=6),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_scores_up_to_ten_thousand_give_numbers_in_fp32(name, rows, dtype):
    values, order, real = (torch.tensor(column)[None] for column in zip(*rows, strict=True))
    scores = values.to(dtype).requires_grad_()
    loss = LOSSES[name](scores, order, real)
    assert loss.dtype == torch.float32 and loss.isfinite().all() and (loss >= 0).all()
    (slope,) = torch.autograd.grad(loss.sum(), scores)
    assert slope.isfinite().all()


def test_a_step_along_the_gradient_moves_the_scores_into_order():
    scores, order = torch.zeros(1, 5, dtype=torch.float64), ranks([3, 0, 4, 1, 2])
    for loss in LOSSES.values():
        moving = scores.clone()
        for _ in range(200):
            leaf = moving.requires_grad_()
            moving = (leaf - 0.1 * torch.autograd.grad(loss(leaf, order).sum(), leaf)[0]).detach()
        assert moving[0].argsort(descending=True).tolist() == order[0].argsort().tolist()
