"""What the step-cost benchmark measures on, and how it counts; the measuring itself is minutes of work and not run here."""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from palate.data.dataset import PreferenceDataset
from palate.data.labels import collect_labels
from palate.data.views import ranked_lists
from palate.presets import methods
from palate.run.checks import SELF, uses_judge

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import method_costs  # noqa: E402
import method_variants  # noqa: E402
import step_data  # noqa: E402


@pytest.mark.parametrize("name", methods())
def test_every_preset_can_be_measured(name):
    config = SimpleNamespace(pretrained_model_name_or_path="pipeline", dataset="data", output_dir="run")
    made = method_variants.configuration(name, SimpleNamespace(config=config, options=step_data.Options()))
    assert made.method == name and made.train_batch_size == 2
    judges = (step_data.JUDGE, SELF, (step_data.JUDGE, step_data.SECOND_JUDGE))
    assert made.judge in (judges if uses_judge(made) else (None,))


def test_the_votes_are_of_every_kind_that_a_preset_needs(tmp_path):
    pairs = step_data.make_pairs(step_data.Options(resolution=64, methods=("dpo",)))
    dataset = PreferenceDataset.create(tmp_path / "data", name="step cost")
    dataset.add_pairs(pairs)
    dataset.append_votes(step_data.make_votes(pairs))
    labels = collect_labels([pair["pair_id"] for pair in pairs], dataset.votes(), judge=step_data.JUDGE)
    assert labels.labelled.mean() == 0.5 and labels.labelled.sum() >= 10  # as few as a judge's correction takes
    assert not np.isnan(labels.judge).any()
    right = np.abs(labels.judge - labels.human)[labels.labelled] < 0.5
    assert 0.5 < right.mean() < 1  # a judge worth something, and not everything
    second = collect_labels([pair["pair_id"] for pair in pairs], dataset.votes(), judge=step_data.SECOND_JUDGE)
    assert not np.isnan(second.judge).any() and (second.judge != labels.judge).any()
    lists, counts = ranked_lists(dataset, labels.human)
    assert [len(images) for images in lists.images] == [step_data.LIST] * 4
    assert all(rank == list(range(step_data.LIST)) for rank in lists.rank)
    assert counts["comparisons that contradict the order"] == 0


def test_every_preset_has_one_turn_a_round_in_a_group_with_a_base_step():
    names = list(methods())
    rounds = [method_costs.deal(names, number) for number in (0, 1)]
    for groups in rounds:
        turns = Counter(name for group in groups for name in group)
        assert turns.pop(method_costs.BASE) == len(groups)
        assert turns == Counter(name for name in names if name != method_costs.BASE)
        assert all(group.count(method_costs.BASE) == 1 and len(group) <= 1 + method_costs.GROUP for group in groups)
    assert rounds[0] != rounds[1] and rounds[0] == method_costs.deal(names, 0)
    assert method_costs.deal([method_costs.BASE], 0) == [[method_costs.BASE]]


@pytest.mark.parametrize("n", [6, 7, 20, 33])
def test_the_interval_of_a_median_is_the_narrowest_of_order_statistics_that_covers_it(n):
    low, high = method_costs.median_interval(np.random.default_rng(0).permutation(n) + 1.0)
    assert low + high == n + 1
    assert 1 - 2 * binom.cdf(low - 1, n, 0.5) >= 0.95 > 1 - 2 * binom.cdf(low, n, 0.5)


def test_too_few_turns_for_an_interval_give_the_range():
    assert method_costs.median_interval(np.array([3.0, 1.0, 2.0])) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("ratios", "verdict"), [([1.0, 1.01], "holds"), ([1.01, 1.03], "open"), ([1.03, 1.04], "missed")]
)
def test_a_target_is_decided_only_where_the_whole_interval_lies_on_one_side(ratios, verdict):
    cost = method_costs.MethodCost(seconds=[2 * ratio for ratio in ratios], base_seconds=[2.0] * len(ratios))
    (checked,) = method_costs.check_method_targets({"sdpo": cost})
    assert checked["verdict"] == verdict and checked["limit"] == 1.02
