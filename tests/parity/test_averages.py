"""Weight averages, Adaptive-DPO's annotators and references that move, against numbers from executing published code."""

import pytest
import torch
from parity.cases import cases, close, errors, get, predictions

from palate.network.model import Policy
from palate.objectives.adaptive import winner_margin
from palate.objectives.logit import logit
from palate.run.load import load_config
from palate.training.moving import MovingReference, decay_at
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


# References that move --------------------------------------------------------------------------------------------------


def moving_settings(**changes):
    base = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o", "reference": "ema"}
    return load_config(base | changes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", cases("linear_ema"))
def test_the_reference_that_moves_is_the_released_one_after_every_step(case, dtype):
    hyper, single = case["hyper"], dtype == torch.float32
    path, expected = (get(case, name + ("" if single else "_f64"), dtype) for name in ("params", "shadow"))
    warmup = "ratio" if hyper["use_num_updates"] else "none"
    config = moving_settings(reference_decay=min(hyper["decay"], 0.999999), reference_warmup=warmup)
    config.reference_decay = hyper["decay"]  # 1 too, which a run refuses: it would never move
    network = Weights(path[0]).to(dtype)
    network.value.data.copy_(path[0])  # not rounded
    moving = MovingReference(Policy(network, ["value"]), config)
    assert len(path) == hyper["steps"] + 1
    for value, shadow in zip(path[1:], expected[1:], strict=True):
        network.value.data.copy_(value)
        moving.update([network.value])
        with moving.network() as lent:
            close(lent(), shadow, rtol=1e-5 if single else 1e-12, atol=1e-6 if single else 1e-13)


@pytest.mark.parametrize("case", cases("nft", "2"))
def test_the_decays_of_the_old_policy_of_diffusion_nft(case):
    keys = {
        0: {"reference_decay": 0.0},
        1: {"reference_decay": 0.5, "reference_warmup": "linear", "reference_rise": 0.001},
        2: {"reference_decay": 0.999, "reference_warmup": "linear", "reference_rise": 0.0075, "reference_wait": 75},
    }[case["hyper"]["decay_type"]]
    config, steps = moving_settings(**keys), get(case, "step").tolist()
    assert len(steps) > 5
    close(torch.tensor([decay_at(int(step), config) for step in steps]), get(case, "decay"), rtol=1e-6)


# Adaptive-DPO's annotators ------------------------------------------------------------------------------------------


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
