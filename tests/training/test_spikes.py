"""Training that breaks: the pairs are named, and a run that went back leaves out the same steps however often it is stopped."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_labelled_dataset, refusal

import palate
from palate.encoding.cache import EncodedPairs
from palate.run.config import TrainConfig
from palate.training.spikes import FEWEST, WINDOW, Spike, Spikes, _write_down, forget_spikes
from palate.training.step import Stepper

PAIRS = 24


@pytest.fixture
def labelled(tmp_path):
    return make_labelled_dataset(tmp_path / "data", pairs=PAIRS, labelled=PAIRS)


def settings(pipeline_folder: Path, dataset, output_dir: Path, **changes) -> dict:
    return {
        "pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path), "output_dir": str(output_dir), "beta": 50.0,
        "learning_rate": 1e-4, "lora": {"rank": 4}, "train_batch_size": 2, "max_train_steps": 12, "checkpointing_steps": 4,
        "report_to": "none", **changes,
    }  # fmt: skip


@pytest.fixture
def broken(monkeypatch):
    """Multiplies the latents of one pair when they are read; the velocity to predict grows with them."""

    def break_pair(pair_id: str, factor: float) -> None:
        read = EncodedPairs.image_latents

        def image_latents(self, images):
            latents = read(self, images)
            latents[[i for i, (found, _) in enumerate(images) if found == pair_id]] *= factor
            return latents

        monkeypatch.setattr(EncodedPairs, "image_latents", image_latents)

    return break_pair


def pair_of_step(step: int) -> str:
    """A pair that the first epoch visits at this step, whatever else does."""
    import numpy as np

    from palate.training.batches import Batches

    row = Batches(np.ones(PAIRS, bool), 2, None, seed=0).at(step).row[0]
    return f"p{row:03}"


def final(run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "checkpoints/step-000012/weights.safetensors")


@pytest.mark.parametrize("factor", [float("nan"), 200.0], ids=["not-a-number", "large"])
def test_rolling_back_leaves_out_the_steps_since_the_checkpoint(
    factor, v_pipeline_folder, labelled, tmp_path, broken, capsys
):
    bad = pair_of_step(9)
    broken(bad, factor)
    run = palate.train(settings(v_pipeline_folder, labelled, tmp_path / "run", on_spike="roll-back"))
    (line,) = [json.loads(line) for line in (run.path / "spikes.jsonl").read_text().splitlines()]
    assert (line["step"], line["back_to"]) == (9, 8) and line["pairs"][0] == bad
    assert f"at pair {bad}" in capsys.readouterr().out
    assert [metrics["step"] for metrics in run.metrics] == [*range(8), 10, 11]
    assert all(tensor.isfinite().all() for tensor in final(run).values())


def test_a_run_that_went_back_and_was_stopped_ends_where_it_would_have_ended(
    pipeline_folder, labelled, tmp_path, broken
):
    broken(pair_of_step(5), float("nan"))
    whole = palate.train(settings(pipeline_folder, labelled, tmp_path / "whole", on_spike="roll-back"))
    halves = settings(pipeline_folder, labelled, tmp_path / "halves", on_spike="roll-back")
    palate.train(halves, max_train_steps=7)
    (tmp_path / "halves/checkpoints/step-000007").rename(
        tmp_path / "gone"
    )  # as if killed between the roll-back and a checkpoint
    again = palate.train(halves)
    assert whole.metrics == again.metrics and [metrics["step"] for metrics in again.metrics] == [
        0,
        1,
        2,
        3,
        *range(6, 12),
    ]
    assert all(torch.equal(tensor, final(again)[name]) for name, tensor in final(whole).items())


def test_a_spike_before_the_first_checkpoint_goes_back_to_the_start(pipeline_folder, labelled, tmp_path, broken):
    broken(pair_of_step(1), float("nan"))
    run = palate.train(settings(pipeline_folder, labelled, tmp_path / "run", on_spike="roll-back"))
    assert [metrics["step"] for metrics in run.metrics] == [*range(2, 12)]
    assert run.metrics[0]["rewards/margins"] == 0.0  # the weights are those of the start


def test_stopping_names_the_pairs_and_keeps_the_step_untaken(v_pipeline_folder, labelled, tmp_path, broken):
    bad = pair_of_step(9)
    broken(bad, 200.0)
    config = settings(v_pipeline_folder, labelled, tmp_path / "run", on_spike="stop")
    line = refusal(lambda: palate.train(config))
    assert line.startswith("step 9: the gradient's norm is ") and f"at pair {bad}" in line and "roll-back" in line
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 9
    assert (
        len(palate.train(settings(v_pipeline_folder, labelled, tmp_path / "ignored")).metrics) == 12
    )  # on_spike: ignore


def test_going_back_has_an_end(pipeline_folder, labelled, tmp_path, monkeypatch):
    read = EncodedPairs.image_latents
    monkeypatch.setattr(EncodedPairs, "image_latents", lambda self, images: read(self, images) * float("nan"))
    monkeypatch.setattr("palate.training.spikes.MOST", 2)
    config = settings(pipeline_folder, labelled, tmp_path / "run", on_spike="roll-back")
    assert "2 roll-backs to step 0 did not help" in refusal(lambda: palate.train(config))


def test_a_spike_is_measured_by_the_median_of_the_last_steps(tmp_path):
    config = TrainConfig("world", "d", str(tmp_path), on_spike="stop", spike_factor=3.0)
    spikes = Spikes(config, tmp_path)
    for step in range(FEWEST):
        spikes.look(step, 100.0 if step == 0 else 1.0, list)  # nothing is usual yet
    spikes.look(FEWEST, 2.9, list)
    with pytest.raises(Spike, match="3 times"):
        spikes.look(FEWEST + 1, 3.1, lambda: ["p1"])
    assert 3.1 not in spikes.norms
    copy = Spikes(config, tmp_path)
    copy.load_state(spikes.state())
    assert copy.norms == spikes.norms
    for step in range(WINDOW):
        copy.look(step, 2.9, list)
    copy.look(0, 8.0, list)  # what is usual has moved
    with pytest.raises(Spike, match="not a number"):
        copy.look(0, float("inf"), list)
    Spikes(TrainConfig("world", "d", str(tmp_path), mixed_precision="fp16"), tmp_path).look(0, float("inf"), list)


def test_a_gradient_that_is_not_a_number_is_never_taken(pipeline_folder, labelled, tmp_path, monkeypatch):
    finish = Stepper.finish

    def spoilt(self):
        result = finish(self)
        if self._step == 2:
            self.networks.policy.parameters[0].grad.fill_(float("nan"))
        return result

    monkeypatch.setattr(Stepper, "finish", spoilt)
    line = refusal(lambda: palate.train(settings(pipeline_folder, labelled, tmp_path / "run")))  # on_spike: ignore
    assert line.startswith("step 2: the gradient is not a number, at pair p")
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2


def test_how_spikes_are_met_may_change_when_a_run_goes_on(pipeline_folder, labelled, tmp_path):
    config = settings(pipeline_folder, labelled, tmp_path / "run", max_train_steps=1)
    palate.train(config)  # its checkpoint knows no norms
    again = palate.train(config, on_spike="stop", spike_factor=50.0, max_train_steps=2)
    assert [metrics["step"] for metrics in again.metrics] == [0, 1]


def test_going_back_passes_over_later_checkpoints_and_a_run_without_any_begins_anew(tmp_path):
    for step in (4, 8):  # the later one was found damaged
        (tmp_path / f"checkpoints/step-{step:06}").mkdir(parents=True)
    _write_down(tmp_path, {"step": 6, "reason": "large", "pairs": ["p1"]})
    config = TrainConfig("world", "d", str(tmp_path), on_spike="roll-back")
    assert Spikes(config, tmp_path).left_out == {4, 5, 6}
    forget_spikes(tmp_path)
    assert Spikes(config, tmp_path).left_out == {4, 5, 6}
    shutil.rmtree(tmp_path / "checkpoints")
    forget_spikes(tmp_path)
    assert Spikes(config, tmp_path).left_out == set()
