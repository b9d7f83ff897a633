"""How far a run moved from its base: measured on held-out pairs, the end of a run, and what a rerun then does."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_labelled_dataset, refusal
from training.test_train import settings

import palate
from palate.data.dataset import PreferenceDataset
from palate.files import CHECKSUMS, damaged_file
from palate.run.checkpoint import checkpoints
from palate.run.drift import drift_of, unequal_drift
from palate.run.load import load_config
from palate.training.validation import Validation

GUARD = dict(held_out_votes=0.3, validation_steps=2, validation_draws=2, checkpointing_steps=50)
WEIGHTS = {"lora": "pytorch_lora_weights.safetensors", "full": "unet/diffusion_pytorch_model.safetensors"}
FAST = {
    "lora": dict(
        lora={"rank": 4, "target_modules": ["conv1", "conv2", "to_v", "to_out.0"]},
        learning_rate=5e-2,
        max_train_steps=12,
    ),
    "full": dict(lora=None, learning_rate=1e-2, max_train_steps=12),
}


@pytest.fixture
def voted(tmp_path) -> PreferenceDataset:
    return make_labelled_dataset(tmp_path / "data", pairs=24, labelled=18)


def drifts(run) -> dict[int, float]:
    return {line["step"] + 1: line["validation/drift"] for line in run.metrics if "validation/drift" in line}


@pytest.mark.parametrize("kind", FAST)
def test_a_run_ends_at_its_drift_with_a_model_and_goes_on_with_a_greater_one(
    kind, pipeline_folder, voted, tmp_path, capsys
):
    def train(name: str, **more) -> palate.Run:
        return palate.train(settings(pipeline_folder, voted, tmp_path / name, **GUARD, **FAST[kind], **more))

    whole = train("whole")
    way = drifts(whole)
    limit = 0.999 * max(way[step] for step in (2, 4, 6, 8))  # metrics have seven digits
    assert list(way) == [2, 4, 6, 8, 10, 12] and limit > 0
    first = next(step for step in way if way[step] >= limit)  # where a run with this limit has to end
    run = train("run", max_drift=limit)
    assert drifts(run) == {step: way[step] for step in way if step <= first} and len(run.metrics) == first < 12
    assert [path.name for path in checkpoints(run.path)] == [f"step-{first:06}"]
    capsys.readouterr()
    model = load_file(run.model_path / WEIGHTS[kind])
    assert any(tensor.abs().max() > 0 for tensor in model.values())
    assert (run.model_path / CHECKSUMS).is_file() and damaged_file(run.model_path) is None

    again = train("run", max_drift=limit)
    assert again.metrics == run.metrics
    told = capsys.readouterr().out
    assert f"train: done: it had stopped at step {first}: the denoising error on held-out pairs is" in told
    kept = load_file(again.model_path / WEIGHTS[kind])
    assert kept.keys() == model.keys() and all(torch.equal(kept[name], model[name]) for name in kept)

    further = train("run", max_drift=1000 * max(way.values()))
    assert "train: max_drift was not reached: " in capsys.readouterr().out
    assert drifts(further) == way and len(further.metrics) == 12
    there, here = (load_file(one.model_path / WEIGHTS[kind]) for one in (whole, further))
    assert all(torch.equal(there[name], here[name]) for name in there)  # as if it had never stopped
    assert drift_of(further.path)[0] == pytest.approx(way[12])


def test_the_drift_is_the_mean_rise_of_both_images_errors(pipeline_folder, voted, tmp_path):
    """As the errors of single images say, which the logged pairs do, too."""
    from accelerate import Accelerator

    from palate.backbones import load_backbone
    from palate.labels.votes import prepare_rows
    from palate.training.assemble import assemble

    config = load_config(settings(pipeline_folder, voted, tmp_path / "run", **GUARD))
    parts = assemble(
        config, voted, load_backbone(str(pipeline_folder)), prepare_rows(voted, config), Accelerator(), tmp_path / "run"
    )
    assert parts.validation is not None
    networks, validation = parts.stepper.networks, parts.validation
    assert validation.measure(networks)["validation/drift"] == 0  # it has not moved
    with torch.no_grad():
        for parameter in parts.policy.parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    seen = []
    plain = networks.errors
    networks.errors = lambda problem, prediction: seen.append(plain(problem, prediction)) or seen[-1]
    told = validation.measure(networks)
    policy, reference = (torch.cat(seen[k::2], dim=1) for k in (0, 1))  # [2, pairs x draws]
    assert told["validation/drift"] == pytest.approx((policy - reference).double().mean().item(), rel=1e-5)
    assert told["validation/drift"] > 0 and told["validation/drift_error"] > 0


def test_a_state_from_before_drift_was_measured_goes_on():
    validation = Validation(None, 1, None, max_drift=1e-6)
    validation.load_state({"validation": torch.tensor([0.5, 2.0], dtype=torch.float64)})
    assert validation.best == 0.5 and validation.since == 2 and not validation.over
    validation = replace(validation, drift=2e-6)
    assert validation.over and "max_drift 1e-06" in validation.reason()
    other = Validation(None, 1, None, max_drift=1e-6)
    other.load_state(validation.state())
    assert other.over and other.drift == 2e-6
    assert not replace(other, max_drift=None).over and not replace(other, max_drift=1e-3).over


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_drift": 0.01}, "add held_out_votes"),
        ({"max_drift": 0.01, "held_out_votes": 0.3, "method": "pc-diffusion"}, "a classifier has none"),
        ({"max_drift": 0.01, "held_out_votes": 0.3, "method": "kto"}, "source 'images' has no such pairs"),
        ({"max_drift": 0.01, "held_out_votes": 0.3, "ema_decay": 0.9}, "give one"),
        ({"max_drift": -1.0, "held_out_votes": 0.3}, "max_drift"),
    ],
)
def test_without_a_base_to_compare_with_it_is_refused(changes, message, pipeline_folder, voted, tmp_path):
    config = settings(pipeline_folder, voted, tmp_path / "run", **changes)
    assert message in refusal(lambda: palate.train(config))


def test_only_models_that_clearly_moved_unequally_far_are_told():
    near, far = (0.002, 0.0018, 0.0022), (0.006, 0.005, 0.007)
    told = unequal_drift({"few": near, "dedpo": far, "mix": (0.004, 0.003, 0.005)})
    assert told.startswith("dedpo moved 3.0 times as far from the base as few (drift +0.006 and +0.002)")
    assert unequal_drift({"few": near}) == unequal_drift({}) == ""
    assert unequal_drift({"few": near, "other": (0.0024, 0.0021, 0.0027)}) == ""  # not clearly more than a quarter
    assert unequal_drift({"few": near, "other": (0.006, 0.0, 0.012)}) == ""  # far, and not known well
    nothing = float("nan")
    assert unequal_drift({"few": near, "one pair": (0.1, nothing, nothing)}) == ""
    assert unequal_drift({"few": near, "one pair": (0.1, nothing, nothing), "dedpo": far}).startswith("dedpo moved")
    assert "further from the base than few" in unequal_drift({"few": (-0.002, -0.003, -0.001), "dedpo": far})
