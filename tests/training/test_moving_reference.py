"""A reference that moves: where it is after every step, what compares with it, what with the start, and resumption."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import refusal
from training.test_methods import run_twice
from training.test_train import interrupt_after, settings

import palate
from palate.errors import PalateError
from palate.network.model import Policy
from palate.run.checkpoint import checkpoints
from palate.run.load import load_config
from palate.training.encode import encode
from palate.training.moving import MovingReference, decay_at
from palate.training.networks import Networks

LORA = {"rank": 4}
EMA = {"reference": "ema", "reference_decay": 0.5}
VOTES = {"held_out_votes": 0.4, "validation_steps": 1, "validation_draws": 2, "train_batch_size": 2}


def weights(run, step: int, kind: str = "weights") -> dict[str, torch.Tensor]:
    return load_file(run.path / f"checkpoints/step-{step:06}/{kind}.safetensors")


def reference(run, step: int) -> dict[str, torch.Tensor]:
    kept = weights(run, step, "beside")
    return {name.removeprefix("reference."): t for name, t in kept.items() if name.startswith("reference.")}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_the_average_is_that_of_the_policies_of_all_steps_and_is_what_the_loss_compares_with(
    lora, pipeline_folder, dataset, tmp_path, monkeypatch
):
    asked, measure = [], Networks.reference_errors

    def watch(networks, problem):
        with networks.reference() as network:
            asked.append({name: weight.clone() for name, weight in network.args[1].items()})
        return measure(networks, problem)

    monkeypatch.setattr(Networks, "reference_errors", watch)
    common = dict(lora=lora, max_train_steps=3, checkpointing_steps=1, checkpoints_total_limit=9)
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "ema", **common, **EMA))
    shadow = asked[0]
    for step in (1, 2, 3):
        policy = weights(run, step)
        assert_equal(asked[step - 1], shadow if step == 1 else reference(run, step - 1))
        expected = {name: 0.5 * shadow[name] + 0.5 * policy[name] for name in shadow}
        shadow = reference(run, step)
        for name, value in expected.items():
            torch.testing.assert_close(shadow[name], value, rtol=1e-6, atol=1e-7)
    if lora:  # a second adapter, not a second network
        assert all("lora_" in name for name in shadow)
    assert run.metrics[0]["rewards/margins"] == 0.0 and run.metrics[0]["winner_error"] == 0.0
    assert run.metrics[1]["rewards/margins"] != 0.0


def test_decay_0_at_every_step_leaves_every_logit_at_0_and_a_decay_of_nearly_1_is_the_fixed_reference(
    pipeline_folder, dataset, tmp_path
):
    common = dict(lora=LORA, max_train_steps=3, learning_rate=1e-2)
    follows = palate.train(settings(pipeline_folder, dataset, tmp_path / "0", **common, **EMA | {"reference_decay": 0}))
    assert all(line["rewards/margins"] == 0.0 and line["winner_error"] == 0.0 for line in follows.metrics)
    assert all(line["loss"] == pytest.approx(math.log(2), abs=1e-7) for line in follows.metrics)
    slow = dict(EMA, reference_decay=0.999999)
    stays, fixed = (
        palate.train(settings(pipeline_folder, dataset, tmp_path / name, **common, **changes))
        for name, changes in (("1", slow), ("fixed", {}))
    )
    for line, other in zip(stays.metrics, fixed.metrics, strict=True):
        assert line["rewards/margins"] == pytest.approx(other["rewards/margins"], abs=2e-4)  # fp32 errors, times beta
    assert abs(fixed.metrics[-1]["rewards/margins"]) > 0.01


def test_rounds_copy_the_policy_every_n_steps_to_the_last_bit(pipeline_folder, dataset, tmp_path):
    common = dict(lora=LORA, max_train_steps=5, checkpointing_steps=1, checkpoints_total_limit=9)
    run = palate.train(
        settings(pipeline_folder, dataset, tmp_path / "run", reference="round", reference_steps=2, **common)
    )
    start = reference(run, 1)
    assert_equal(reference(run, 2), weights(run, 2))
    assert_equal(reference(run, 3), weights(run, 2))
    assert_equal(reference(run, 5), weights(run, 4))
    assert any(not torch.equal(start[name], weights(run, 1)[name]) for name in start)
    assert [line["rewards/margins"] == 0.0 for line in run.metrics] == [True, False, True, False, True]


def test_the_reference_moves_every_k_steps(pipeline_folder, dataset, tmp_path):
    common = dict(max_train_steps=4, checkpointing_steps=1, checkpoints_total_limit=9, **EMA)
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", reference_steps=3, **common))
    assert_equal(reference(run, 1), reference(run, 2))
    moved, before, policy = reference(run, 3), reference(run, 2), weights(run, 3)
    for name in moved:
        torch.testing.assert_close(moved[name], (before[name] + policy[name]) / 2, rtol=1e-6, atol=1e-7)
    assert_equal(reference(run, 4), moved)


# When held-out votes decide ---------------------------------------------------------------------------------------------


def deciding(value: float = 1.0) -> tuple[Policy, MovingReference]:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, value)
    policy = Policy(network, ["weight"])
    config = load_config(
        {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o", "reference": "round", **VOTES}
    )
    return policy, MovingReference(policy, config)


def test_it_moves_when_the_same_votes_cost_less_than_at_its_last_move_by_more_than_a_standard_error():
    policy, moving = deciding()
    start = torch.full((4,), math.log(2), dtype=torch.float64)
    apart = torch.tensor([0.3, -0.1, 0.2, 0.0], dtype=torch.float64)  # mean 0.1, standard error 0.091
    steps = [
        (start, 0),  # no better
        (start - 0.9 * apart + 0.02, 0),  # 0.07 better, standard error 0.082
        (start - apart, 1),  # 0.1 better
        (start - apart, 1),  # as at the last move
        (start, 1),  # worse
        (start - apart - 0.01, 2),  # all of them a little better: the difference of each vote counts, not the spread
    ]
    for place, (losses, moves) in enumerate(steps):
        with torch.no_grad():
            policy.network.weight.fill_(place)
        moving.update(policy.parameters)  # steps alone move nothing
        moving.hear(losses)
        assert moving.moves == moves, place
    assert moving.weights["weight"].item() == 5
    again = deciding()[1]
    again.load_state(moving.state())
    again.hear(start - apart - 0.01)
    assert again.moves == 2 and again.weights["weight"].item() == 5


@pytest.fixture
def better(monkeypatch):
    """Held-out votes say at every third validation that the policy is better."""
    hear = MovingReference.hear
    told = lambda self, losses: hear(self, torch.full_like(losses, math.log(2) - self.steps // 3))  # noqa: E731
    monkeypatch.setattr(MovingReference, "hear", told)


def test_held_out_votes_are_measured_against_the_start_and_move_the_reference_of_a_run(
    better, pipeline_folder, dataset, tmp_path
):
    """Up to the first move a run with rounds is one without; after a move its logits start at 0 again."""
    common = dict(lora=LORA, max_train_steps=7, learning_rate=1e-2, beta=5000.0, **VOTES)
    rounds, fixed = (
        palate.train(settings(pipeline_folder, dataset, tmp_path / name, **common, **changes)).metrics
        for name, changes in (("round", {"reference": "round"}), ("fixed", {}))
    )
    assert [line["validation/reference_moves"] for line in rounds] == [0, 0, 1, 1, 1, 2, 2]
    for line, other in zip(rounds[:3], fixed, strict=False):
        assert line["validation/cross_entropy"] == pytest.approx(other["validation/cross_entropy"], abs=1e-3)
    assert rounds[2]["validation/cross_entropy"] != pytest.approx(math.log(2), abs=1e-3)  # the start, not the last move
    assert [line["rewards/margins"] == 0.0 for line in rounds] == [step in (0, 3, 6) for step in range(7)]
    assert sum(line["rewards/margins"] == 0.0 for line in fixed) == 1


# What compares with the start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_the_anchor_is_the_mean_square_of_the_change_since_the_start_wherever_the_reference_is(
    lora, pipeline_folder, dataset, tmp_path, monkeypatch
):
    """With a reference that is always the policy, the anchor alone has a value and a gradient."""
    follows = dict(reference="ema", reference_decay=0.0, lora=lora, max_train_steps=3, train_batch_size=4)
    losses = {"preference": 1.0, "anchor": 4.0}
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", losses=losses, **follows)).metrics
    free = palate.train(settings(pipeline_folder, dataset, tmp_path / "free", **follows)).metrics
    assert run[0]["loss"] == free[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert run[1]["loss"] > run[0]["loss"] + 1e-6 and free[1]["loss"] == pytest.approx(math.log(2), abs=1e-7)


def test_a_run_compares_its_own_votes_with_the_start(pipeline_folder, dataset, tmp_path):
    """With a reference that is always the policy, logits against it would be 0, and every vote a half."""
    follows = dict(method="self-training", reference="ema", reference_decay=0.0, max_train_steps=4)
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", learning_rate=1e-2, **follows))
    assert all(line["rewards/margins"] == 0.0 for line in run.metrics)
    assert run.metrics[-1]["by_source/self/gradient_factor"] > 1e-3  # |1/2 - vote| of pairs without a human vote


# Resumed ----------------------------------------------------------------------------------------------------------------


CHANGES = {
    "ema lora": dict(lora=LORA, reference_warmup="ratio", **EMA),
    "ema full with an anchor": dict(losses={"preference": 1.0, "anchor": 1.0}, **EMA),
    "round": dict(lora=LORA, reference="round", reference_steps=3),
    "round by votes": dict(lora=LORA, reference="round", **VOTES),
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_run_goes_on_where_it_stopped(changes, better, pipeline_folder, dataset, tmp_path, monkeypatch):
    whole, halves = run_twice(pipeline_folder, dataset, tmp_path, monkeypatch, learning_rate=1e-2, **changes)
    assert whole.metrics == halves.metrics
    for kind in ("weights", "beside"):
        assert_equal(weights(whole, 6, kind), weights(halves, 6, kind))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "full" in name else []) for name in list(CHANGES)[:2]]
)
def test_a_run_that_was_killed_ends_as_one_never_stopped(name, pipeline_folder, dataset, tmp_path):
    common = dict(max_train_steps=6, learning_rate=1e-2, **CHANGES[name])
    whole = palate.train(settings(pipeline_folder, dataset, tmp_path / "whole", **common))
    interrupt_after(4, settings(pipeline_folder, dataset, tmp_path / "halves", **common))
    halves = palate.train(settings(pipeline_folder, dataset, tmp_path / "halves", **common))
    assert whole.metrics == halves.metrics
    for kind in ("weights", "beside"):
        assert_equal(weights(whole, 6, kind), weights(halves, 6, kind))


def test_a_checkpoint_holds_the_reference_not_the_policy(pipeline_folder, dataset, tmp_path):
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", max_train_steps=2, **EMA))
    assert checkpoints(run.path) and weights(run, 2).keys() == reference(run, 2).keys()
    assert any(not torch.equal(value, weights(run, 2)[name]) for name, value in reference(run, 2).items())


# Refused ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(EMA, share_reference=True), "its errors belong to one step of one run"),
        (dict(reference="ema", losses={"winner": 1.0}), "none of the losses compares with it"),
        (dict(reference="ema", losses={"winner": 1.0}, held_out_votes=0.2), "none of the losses compares with it"),
        (dict(reference="ema", method="spin"), "takes its samples once"),
        (dict(reference="round"), "needs to know when"),
        (dict(reference="round", reference_steps=2, reference_decay=0.5), "belong to reference: ema"),
        (dict(reference_steps=2), "add reference: ema or round"),
        (dict(EMA, reference_rise=0.1), "belong to reference_warmup: linear"),
        (dict(EMA, compile=True), "a reference that moves"),
        (dict(EMA, weight_dtype="bf16", mixed_precision="bf16"), "there are none"),
        (dict(losses={"anchor": 1.0}), "add the loss that it restrains"),
        (dict(losses={"preference": 1.0, "anchor": 1.0}, region=0.2), "compare whole predictions"),
        (dict(losses={"preference": 1.0, "anchor": 1.0}, share_reference=True), "only errors are shared"),
    ],
)
def test_what_cannot_go_together_is_refused_with_the_reason(changes, reason):
    base = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o"}
    assert reason in refusal(lambda: load_config(base | changes))


def test_errors_of_a_reference_that_moves_are_not_computed_beforehand(pipeline_folder, dataset):
    with pytest.raises(PalateError, match=r"reference: ema \(its errors change at every move\)"):
        encode(settings(pipeline_folder, dataset, "unused", **EMA), reference_draws=2)


# The schedule of the decay ----------------------------------------------------------------------------------------------


def test_warm_ups_end_at_the_decay():
    base = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o", "reference": "ema"}
    for warmup, first in (("none", 0.9), ("ratio", 2 / 11), ("linear", 0.0)):
        more = {"reference_rise": 0.01, "reference_wait": 2} if warmup == "linear" else {}
        config = load_config(base | {"reference_decay": 0.9, "reference_warmup": warmup} | more)
        decays = [decay_at(step, config) for step in range(1, 200)]
        assert decays[0] == first and decays[-1] == 0.9 and (np.diff(decays) >= 0).all()
