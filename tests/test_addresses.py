"""Addressed numbers: the values that every stored plan, cache, sample and run depends on. None may ever change."""

import pytest
import torch

from palate.addresses import address, hashes, normal, number, numbers, random_order


def test_addresses_and_numbers_are_those_of_stored_runs():
    assert address("sample", 0, "a red circle", 1) == 2474254916423186962
    assert address(3, "pair-7", 12) == 1843574597092629329
    assert address() == 8238016292129134938
    assert number("draw", 0, "pair-7") == 0.7002268482086332
    assert numbers("order", 5, ["a", "b"]).tolist() == [0.8857861372515415, 0.19258251809665916]
    assert hashes(["a", "pair-7"]).tolist() == [3405396810240292928, 10725454265851205441]


def test_normal_numbers_are_those_of_stored_samples():
    expected = torch.tensor([-0.3099827468395233, 0.4489911198616028, -0.890633225440979])
    assert torch.equal(normal((3,), "jitter", 0, "p"), expected)
    assert normal((2,), "rollout", "p", 0, "start").tolist() == [-0.8858468532562256, -0.6427482962608337]


def test_the_random_order_moves_no_name_when_others_leave():
    names = [f"3/pair-{i}" for i in range(12)]
    order = random_order(names)
    assert order.tolist() == [3, 11, 0, 9, 4, 6, 8, 1, 7, 5, 10, 2]
    fewer = [name for name in names if not name.endswith(("4", "9"))]
    ordered = [names[i] for i in order]
    assert [fewer[i] for i in random_order(fewer)] == [name for name in ordered if name in fewer]


@pytest.mark.parametrize("one,other", [(("a", "bc"), ("ab", "c")), (("a", 1), (1, "a")), (("a",), ("a", ""))])
def test_parts_do_not_run_together(one, other):
    assert address(*one) != address(*other)
