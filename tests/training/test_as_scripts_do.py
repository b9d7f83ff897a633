"""What users of published training scripts expect: epochs, a part of the pairs, their schedules, and their noises."""

import json

import numpy as np
import pytest
import torch
from tiny import PROMPTS, refusal

import palate
from palate.backbones import load_backbone
from palate.data.where import fulfil
from palate.labels.votes import prepare_rows
from palate.run.load import load_config
from palate.training.draws import draws


@pytest.fixture
def settings(pipeline_folder, dataset, tmp_path):
    """The keys of a run of two steps, of LoRA adapters, on the dataset of 24 pairs, 8 of them with votes."""

    def given(name: str = "run", **changes) -> dict:
        return {
            "pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path), "report_to": "none",
            "output_dir": str(tmp_path / name), "train_batch_size": 4, "max_train_steps": 2, "lora": {"rank": 2},
            "checkpointing_steps": 1, **changes,
        }  # fmt: skip

    return given


def test_epochs_are_steps_rounded_up_and_a_run_can_be_given_more(settings, capsys):
    run = palate.train(settings(num_train_epochs=1.2))  # 8 pairs with votes: 9.6 of them in steps of 4
    assert len(run.metrics) == 3 and "1.2 passes over 8 rows are 3 steps of 4" in capsys.readouterr().out
    assert load_config(run.path / "config.yaml").max_train_steps == 3
    assert len(palate.train(settings(num_train_epochs=2)).metrics) == 4
    whole = palate.train(settings("whole", max_train_steps=4))
    assert [line["loss"] for line in run.metrics] == [line["loss"] for line in whole.metrics]


def test_the_rates_of_a_run_by_epochs_that_is_prolonged_are_told(settings, capsys):
    schedule = {"lr_scheduler": "polynomial", "lr_power": 2.0}
    palate.train(settings(num_train_epochs=1, **schedule))
    capsys.readouterr()
    palate.train(settings(num_train_epochs=2, **schedule))
    assert "max_train_steps was 2 before. From step 2 on the learning rates" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "rates"),
    [
        ({"lr_scheduler": "polynomial", "lr_power": 2.0}, [(1 - k / 4) ** 2 * (1 - 1e-4) + 1e-4 for k in range(4)]),
        ({"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": 2}, [1.0, 0.5, 1.0, 0.5]),
    ],
)
def test_the_rates_of_schedules(keys, rates, settings):
    run = palate.train(settings(max_train_steps=4, learning_rate=1e-3, **keys))
    assert [line["learning_rate"] for line in run.metrics] == pytest.approx([1e-3 * rate for rate in rates])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("generator_0 contains DREAM", ["a"]),
        ("generator_0 lacks dream", ["b", "c"]),  # c has no generator
        ("prompt is a cat", ["a"]),
        ("prompt is not a cat", ["b", "c"]),
        ("propensity >= 0.5", ["b"]),
        ("propensity < 0.5", ["a"]),
        ("group_id is 7", ["c"]),
    ],
)
def test_conditions(given, kept, tmp_path):
    from tiny import picture_bytes

    from palate.data.dataset import PreferenceDataset

    dataset = PreferenceDataset.create(tmp_path / "prefs", name="x")
    picture = picture_bytes(np.random.default_rng(0), 8, 8, "PNG")
    more = {
        "a": {"prompt": "a cat", "generator_0": '{"model": "dreamlike"}', "propensity": 0.2},
        "b": {"prompt": "a dog", "generator_0": '{"model": "sdxl"}', "propensity": 0.5},
        "c": {"prompt": "a cat on a dog", "group_id": "7"},
    }
    dataset.add_pairs({"pair_id": k, "image_0": picture, "image_1": picture} | one for k, one in more.items())
    found = fulfil(dataset, [given])
    assert [name for name, keep in zip(more, found, strict=True) if keep] == kept


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("generator_0", "'generator_0' is no condition; write COLUMN contains TEXT"),
        ("generator contains x", "pairs have no column 'generator'; did you mean 'generator_"),
        ("prompt > 3", "where: prompt is text; it goes with contains, is, is not, lacks."),
        ("propensity contains 3", "where: propensity is a number; it goes with <"),
        ("propensity > many", "where: propensity is a number, and 'many' is none."),
        ("prompt contains a unicorn", "no pair of "),
    ],
)
def test_conditions_that_cannot_be(given, told, settings, dataset):
    assert told in refusal(lambda: fulfil(dataset, [given]))
    assert told in refusal(lambda: palate.train(settings(where=given)))


@pytest.mark.parametrize("method", ["dpo", "dedpo", "kto", "rankdpo", "spin"])
def test_only_the_chosen_pairs_are_trained_on(method, settings, dataset, capsys):
    judge = {"judge": "bright", "correction": "none"} if method == "dedpo" else {}
    keys = {"method": method, "train_batch_size": 2, **judge}
    chosen = {row["pair_id"] for row in dataset.pairs(["pair_id", "prompt"]).to_pylist() if row["prompt"] == PROMPTS[0]}
    every = prepare_rows(dataset, load_config(settings(**keys)))
    rows = prepare_rows(dataset, load_config(settings(**keys, where=f"prompt is {PROMPTS[0]}")))
    assert {pair for row in rows.images for pair, _ in row} <= chosen
    inside = [set(pair for pair, _ in row) <= chosen for row in every.images]
    assert len(rows) == sum(inside) > 0
    assert (
        rows.account["pairs left out by where and max_train_samples"] == 16
        and rows.account["pairs in the dataset"] == 24
    )
    assert "16 of 24 pairs are left out" in capsys.readouterr().out


def test_a_run_on_a_part_of_the_pairs(settings, dataset):
    run = palate.train(
        settings(where=["prompt lacks square"], max_train_samples=9, method="dedpo", judge="bright", correction="none")
    )
    assert json.loads((run.path / "labels.json").read_text())["pairs used"] == 9


def test_fewer_samples_are_a_part_of_more(settings, dataset):
    config = [load_config(settings(max_train_samples=n, method="judge", judge="bright")) for n in (5, 12, 24, 99)]
    five, twelve, every, more = (prepare_rows(dataset, one).id.tolist() for one in config)
    assert (len(five), len(twelve), len(every)) == (5, 12, 24) and set(five) < set(twelve) and every == more
    assert twelve == sorted(twelve)


def test_offset_and_perturbation_leave_the_rest_of_a_draw_as_it_is():
    plain = draws(0, ["a", "b"], [0, 1], (2, 64, 64), 1000)
    offset = draws(0, ["a", "b"], [0, 1], (2, 64, 64), 1000, noise_offset=0.5)
    both = draws(0, ["a", "b"], [0, 1], (2, 64, 64), 1000, noise_offset=0.5, input_perturbation=0.1)
    assert torch.equal(plain.timestep, both.timestep) and torch.equal(offset.noise, both.noise)
    added = offset.noise - plain.noise  # one number per channel
    assert added.abs().max() > 0.01 and torch.allclose(added, added[..., :1, :1].expand_as(added), atol=1e-6)
    assert not plain.added.any() and 0.095 < float(both.added.std()) < 0.105
    assert torch.equal(
        draws(0, ["b"], [1], (2, 64, 64), 1000, input_perturbation=0.1).added[0],
        draws(0, ["a", "b"], [0, 1], (2, 64, 64), 1000, input_perturbation=0.1).added[1],
    )


def test_the_perturbation_is_in_the_input_and_the_offset_in_both(settings, dataset, pipeline_folder, monkeypatch):
    """x_t = a·x_0 + s·(noise + 0.3·more), against the target noise alone; a pair shares both."""
    from accelerate import Accelerator

    from palate.training.assemble import assemble

    seen = {}
    for name, keys in {"plain": {}, "moved": {"noise_offset": 0.2, "input_perturbation": 0.3}}.items():
        config = load_config(settings(name, **keys))
        backbone = load_backbone(str(pipeline_folder))
        parts = assemble(config, dataset, backbone, prepare_rows(dataset, config), Accelerator(cpu=True), None)
        seen[name] = parts.stepper.source(0)
    plain, moved = seen["plain"], seen["moved"]
    spread = (1 - backbone.noise_schedule.alphas_cumprod[plain.timestep]).sqrt().view(-1, 1, 1, 1)
    in_target = moved.regression_target - plain.regression_target
    in_input = (moved.noisy - plain.noisy) / spread - in_target
    assert (
        torch.allclose(in_target, in_target[..., :1, :1].expand_as(in_target), atol=1e-5)
        and in_target.abs().max() > 0.01
    )
    assert 0.25 < float(in_input.std()) < 0.35
    first, second = in_input.chunk(2)
    assert torch.allclose(first, second, atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"noise_offset": 0.1, "noise": "inversion"}, "noise_offset and input_perturbation change random noise"),
        ({"input_perturbation": 0.1, "share_reference": True}, "share_reference: reference errors can be shared"),
        (
            {"noise_offset": 0.1, "reference": "precomputed", "reference_draws": 1},
            "this configuration has noise_offset",
        ),
        ({"lr_num_cycles": 2}, "lr_num_cycles belongs to lr_scheduler: cosine_with_restarts"),
        ({"lr_power": 2.0}, "lr_power belongs to lr_scheduler: polynomial"),
    ],
)
def test_what_does_not_go_together(keys, told, settings):
    assert told in refusal(lambda: load_config(settings(**keys)))


def test_tf32_is_what_the_run_says(settings):
    palate.train(settings(tf32=True), dry_run=True)
    assert torch.get_float32_matmul_precision() == "high"
    palate.train(settings(), dry_run=True)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_model_of_few_steps_is_told_by_its_name(settings, pipeline_folder, tmp_path, capsys):
    (tmp_path / "sdxl-turbo").symlink_to(pipeline_folder)
    palate.train(settings(pretrained_model_name_or_path=str(tmp_path / "sdxl-turbo")), dry_run=True)
    assert "distilled to sample in few steps (its name says turbo)" in capsys.readouterr().out
    palate.train(settings(), dry_run=True)
    assert "distilled" not in capsys.readouterr().out
