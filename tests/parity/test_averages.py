"""The weight averages that act as Adaptive-DPO's annotators, against numbers computed by executing published code."""

import pytest
import torch
from parity.cases import cases, close, errors, get, predictions

from palate.network.model import Policy
from palate.objectives.adaptive import winner_margin
from palate.objectives.logit import logit
from palate.training.snapshots import Snapshots


class Weights(torch.nn.Module):
    """A network that says its own weights, in fp32 as the published averages are."""

    def __init__(self, value):
        super().__init__()
        self.value = torch.nn.Parameter(value.float())

    def forward(self):
        return self.value


def averaged(value):
    """(policy with these weights, its averages)."""
    policy = Policy(Weights(value), ["value"])
    return policy, Snapshots(policy)


def move(policy, snapshots, value):
    policy.network.value.data.copy_(value)
    snapshots.update(policy.parameters)


@pytest.mark.parametrize("case", cases("ema"))
def test_the_average_that_training_keeps_has_the_published_schedule(case):
    path, decays = get(case, "params", torch.float32), get(case, "decay_used")
    policy, snapshots = averaged(path[0])
    average = next(a for a in snapshots.averages if a.decay == case["hyper"]["decay"])
    for k, value in enumerate(path[1:]):
        move(policy, snapshots, value)
        assert average.cur_decay_value == pytest.approx(decays[k].item(), rel=1e-12)
        close(average.shadow_params[0], get(case, "shadow", torch.float32)[k], rtol=1e-6, atol=1e-7)
    assert decays[0] == 0 and decays[1] < decays[-1]  # the first update copies, later ones copy less and less


def sequences():
    """One parameter per sequence: its successive micro-batches."""
    found = {}
    for parameter in cases("adaptive_dpo", keep=lambda case: "sequence" in case["hyper"]):
        case = parameter.values[0]
        found.setdefault(case["hyper"]["sequence"], []).append(case)
    return [pytest.param(sorted(steps, key=lambda case: case["hyper"]["micro_step"]), id=name) for name, steps in found.items()]  # fmt: skip


@pytest.mark.parametrize("sequence", sequences())
def test_annotators_of_a_sequence_of_micro_batches_are_rebuilt_from_the_policy(sequence):
    _, target, reference = predictions(sequence[0], torch.float64)
    ref_error, one = errors(reference, target), torch.ones(len(target[0]), dtype=torch.float64)
    policy, snapshots = averaged(torch.cat(reference))  # predictions stand for weights; it starts at the reference
    updates, asked = 0, 0
    for case in sequence:
        hyper, beta = case["hyper"], 2 * case["hyper"]["beta"]
        if hyper["optimiser_updates_so_far"] > updates:
            move(policy, snapshots, get(case, "policy_pred", torch.float32))
            updates += 1
        assert updates == hyper["optimiser_updates_so_far"]
        close(policy.network(), get(case, "policy_pred"), rtol=0, atol=0)
        if hyper["step"] < hyper["warmup_steps"]:
            continue  # annotators are not asked yet
        for network, name in zip(snapshots.networks(policy.network), ("m1_f64", "m2_f64"), strict=True):
            error = errors(network().detach().double().chunk(2), target)
            # the averages are fp32 on both sides, and round differently
            close(winner_margin(logit(*error, *ref_error, beta), one, beta), get(case, name), rtol=1e-7, atol=1e-10)
            asked += 1
    assert asked
