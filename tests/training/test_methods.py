"""Every method of the literature is a preset that trains, with adapters and with all weights, and nothing but a preset."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from tiny import make_labelled_dataset
from training.test_train import settings

import palate
from palate.data.dataset import PreferenceDataset
from palate.errors import PalateError
from palate.labels.votes import prepare_rows
from palate.presets import methods
from palate.run.load import load_config
from palate.run.metrics import MetricsLog

NEEDS_JUDGE = {"auto", "mix", "judge", "dedpo", "dedpo-tuned", "doubly-robust", "smpo", "madpo"}
REWARD = {"tailorpo", "spo"}


@pytest.fixture(scope="module")
def voted(tmp_path_factory) -> PreferenceDataset:
    """Pairs with human votes and those of two judges."""
    dataset = make_labelled_dataset(tmp_path_factory.mktemp("methods") / "data", pairs=24, labelled=16)
    dataset.append_votes(
        {
            "vote_id": f"k-{i}",
            "pair_id": f"p{i:03}",
            "annotator_id": "coin",
            "source": "judge",
            "choice": "0",
            "probability": 0.6,
        }
        for i in range(24)
    )
    return dataset


def configuration(name: str, **changes) -> dict:
    """A method with what it cannot do without, small."""
    extra = {"judge": "bright"} if name in NEEDS_JUDGE else {}
    if name == "balanced-dpo":
        extra = {"judge": ["bright", "coin"], "reference_steps": 2}
    if name in REWARD:
        extra |= {
            "reward": "brightness",
            "reward_gap": 0.0,
            "reward_temperature": 0.01,
            "sampling_steps": 3,
            "first_sampling_step": 1,
            "prompts_per_round": 4,
            "refresh_steps": 2,
        }
    if name == "spin":
        extra |= {"sampling_steps": 2}
    return {"method": name, **extra, **changes}


@pytest.mark.parametrize("lora", [{"rank": 4}, None], ids=["lora", "full"])
@pytest.mark.parametrize("name", methods())
def test_every_method_trains(name, lora, pipeline_folder, voted, tmp_path):
    if name == "pc-diffusion" and lora:
        pytest.skip("the classifier is small and trained whole")
    run = palate.train(
        settings(pipeline_folder, voted, tmp_path / "run", lora=lora, max_train_steps=3, **configuration(name))
    )
    metrics = run.metrics
    assert len(metrics) == 3 and all(torch.isfinite(torch.tensor(line["loss"])) for line in metrics)
    assert all(line["gradient_norm"] > 0 for line in metrics[1:])  # something is learned
    weights = load_file(run.path / "checkpoints/step-000002/weights.safetensors")
    later = load_file(run.path / "checkpoints/step-000003/weights.safetensors")
    assert any(not torch.equal(weights[n], later[n]) for n in weights)
    assert (run.path / "model").is_dir()


def run_twice(pipeline_folder, dataset, tmp_path, monkeypatch, **changes):
    """A run that was never stopped, and one that was after its fifth step, one step beyond a checkpoint, and went on."""
    common = {"max_train_steps": 6, "checkpointing_steps": 2, **changes}
    whole = palate.train(settings(pipeline_folder, dataset, tmp_path / "whole", **common))
    write = MetricsLog.write

    def stop(self, step, metrics):
        write(self, step, metrics)
        if step == 4 and self.path.parent.name == "halves":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetricsLog, "write", stop)
        palate.train(settings(pipeline_folder, dataset, tmp_path / "halves", **common))
    return whole, palate.train(settings(pipeline_folder, dataset, tmp_path / "halves", **common))


@pytest.mark.parametrize(
    "changes",
    [
        {"safeguard": 0.0, "safeguard_mode": "exact", "gradient_accumulation_steps": 2},
        {"adaptive": True, "adaptive_memory": True},
        {"method": "self-training", "held_out_votes": 0.4, "validation_steps": 2},
        {"method": "self-training-crossfit", "self_draws": 2},
        {"method": "kto", "kto_offset": "balanced", "kto_liked": 0.5},
        {"adaptive": True, "adaptive_flip_ratio": 0.5, "adaptive_flip_threshold": 0.0, "adaptive_warmup_steps": 1},
        {"timestep_weight": "balanced"},
        {"method": "diffusion-nft"},
        {"method": "spin", "sampling_steps": 2},
        {"method": "sudo"},
        {"method": "self-npo"},
        {"method": "inpo", "inversion_steps": 2},
        {"method": "diffusion-lpo"},
        configuration("spo", refresh_steps=3),
        configuration("spo", refresh_steps=2, checkpointing_steps=3),  # stopped in another round than the checkpoint's
        {"method": "pc-diffusion", "lora": None},
    ],
    ids=lambda changes: "-".join(str(value) for value in list(changes.values())[:2]),
)
def test_every_kind_of_run_goes_on_where_it_stopped(changes, pipeline_folder, voted, tmp_path, monkeypatch):
    whole, halves = run_twice(pipeline_folder, voted, tmp_path, monkeypatch, **{"lora": {"rank": 4}, **changes})
    assert whole.metrics == halves.metrics
    first, second = (load_file(run.path / "checkpoints/step-000006/weights.safetensors") for run in (whole, halves))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", [n for n in methods() if n not in ("self-npo", "mapo", "sft")])
def test_every_logit_of_the_first_step_is_zero_whatever_the_method(name, pipeline_folder, voted, tmp_path):
    run = palate.train(settings(pipeline_folder, voted, tmp_path / "run", max_train_steps=1, **configuration(name)))
    assert run.metrics[0].get("rewards/margins", 0.0) == 0.0
    assert run.metrics[0].get("largest_labelled_logit", 0.0) == 0.0


def test_a_preset_is_no_more_than_its_keys(pipeline_folder, voted, tmp_path):
    preset = palate.train(settings(pipeline_folder, voted, tmp_path / "preset", method="dmpo", max_train_steps=2))
    spelled = palate.train(
        settings(pipeline_folder, voted, tmp_path / "spelled", link="dmpo", link_parameter=0.01, max_train_steps=2)
    )
    assert preset.metrics == spelled.metrics


def test_keys_of_the_file_win_over_the_preset_and_the_preset_over_the_recipe_s_absence():
    base = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o"}
    assert load_config({**base, "method": "sdpo"}).safeguard == 0.9
    assert load_config({**base, "method": "sdpo", "safeguard": 0.3}).safeguard == 0.3
    published = load_config({**base, "method": "sdpo", "recipe": "sdxl"})
    assert (published.safeguard, published.safeguard_mode, published.beta) == (0.6, "batch", 5000)
    assert load_config({**base, "method": "sdpo", "recipe": "sdxl", "beta": 1}).beta == 1


@pytest.mark.parametrize("name", methods())
def test_every_preset_and_recipe_is_a_configuration(name):
    base = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o", **configuration(name)}
    load_config(base)
    one = methods()[name]
    assert len(one.config) <= 15 and one.says.endswith(".")
    for recipe in ("sd15", "sdxl"):
        if getattr(one, recipe):
            load_config({**base, "recipe": recipe})
        else:
            with pytest.raises(PalateError, match="no hyper-parameters were published"):
                load_config({**base, "recipe": recipe})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "mapo", "share_reference": True}, "has no reference"),
        ({"method": "inpo", "share_reference": True}, "depend on the pair and its draw alone"),
        ({"method": "dspo-sdxl", "share_reference": True}, "needs the reference's predictions"),
        ({"method": "dedpo", "judge": "bright", "link": "smoothed"}, "not linear in its label"),
        ({"method": "dpo", "judge": "bright"}, "nothing uses it"),
        ({"method": "sudo", "judge": "bright"}, "takes no votes"),
        ({"method": "dedpo"}, "needs a judge"),
        ({"method": "kto", "safeguard": 0.5}, "no pairs"),
        ({"method": "kto", "losses": {"preference": 1.0}}, "no pair to compare"),
        ({"method": "dpo", "losses": {"kto": 1.0}}, "set source: images"),
        ({"method": "pc-diffusion", "safeguard": 0.5}, "denoising errors"),
        ({"method": "pc-diffusion", "lora": {"rank": 4}}, "trained whole"),
        ({"method": "pc-diffusion", "losses": {"winner": 1.0}}, "no denoising error"),
        ({"method": "self-npo", "noise": "renoise"}, "makes its own noisy images"),
        ({"method": "spo"}, "give 'reward"),
        ({"method": "dpo", "reward": "world"}, "needs source: steps"),
        ({"method": "self-training", "correction": "calibrate"}, "cannot be corrected beforehand"),
        ({"method": "self-training", "power": "auto"}, "before training"),
        ({"method": "cdpo", "flip_rate": 0.1}, "opposite things"),
        ({"method": "sft", "safeguard": 0.5}, "none of the losses has one"),
        ({"method": "dpo", "start_from": "runs/1", "share_reference": True}, "goes neither"),
        ({"method": "dpo", "early_stop": 2}, "held_out_votes"),
        ({"method": "dpo", "safeguard_mode": "exact"}, "needs the safeguard's mu"),
        ({"method": "dpo", "link": "dmpo", "link_parameter": 7.0}, "dmpo"),
        ({"method": "doubly-robust", "judge": "bright", "power": 0.5}, "two ways"),
        ({"method": "dpo", "losses": {"winner": -1.0}}, "above 0"),
        ({"method": "dpo", "losses": {"winer": 1.0}}, "not one of"),
        ({"method": "kto", "target": "judge", "judge": "bright"}, "made of human votes"),
        ({"method": "diffusion-lpo", "swap": True}, "turns votes around"),
        ({"method": "kto", "flip_rate": 0.1}, "votes on pairs"),
        ({"method": "mapo", "link": "ipo"}, "belongs to the preference loss"),
        ({"method": "dedpo", "judge": "bright", "losses": {"ranking": 1.0}}, "not linear in the label"),
        ({"method": "dedpo", "judge": "bright", "losses": {"dspo-sdxl": 1.0}}, "not linear in the label"),
        ({"method": "mapo", "adaptive": True}, "preference logit"),
        ({"method": "pc-diffusion", "target": "dedpo", "judge": "self", "correction": "none"}, "its own judge"),
        ({"method": "dpo", "label_smoothing": 0.7}, "between 0 and"),
        ({"method": "dedpo", "judge": "bright", "target_radius": 0.1}, "not linear in the label"),
        ({"method": "rdpo", "target_radius": 0.1}, "outside \\[0, 1\\]"),
        ({"method": "mapo", "target_radius": 0.1}, "needs votes and losses: preference"),
        ({"method": "alpha-dpo", "target_radius": 0.1}, "'alpha-dpo' is not linear in its label"),
        ({"method": "dpo", "alpha_factor": 0.5}, "link: alpha-dpo without a link_parameter"),
        ({"method": "dpo", "losses": {"single": 1.0}}, "set source: images"),
        ({"method": "diffusion-lpo", "losses": {"nft": 1.0}}, "has none"),
        ({"method": "sudo", "losses": {"nft": 1.0}}, "has none"),
        ({"method": "rn-dpo", "losses": {"nft": 1.0}}, "whole predictions"),
        ({"method": "dpo", "nft_kl": 0.0}, "nft_kl belongs to losses: nft"),
        ({"method": "dpo", "kto_liked": 2.0}, "kto_liked belongs to losses: kto"),
        ({"method": "dpo", "confidence": 5.0, "judge": "bright"}, "set source: images"),
        ({"method": "threshold-guided", "confidence": 5.0}, "confidence needs a judge"),
        ({"method": "threshold-guided", "confidence": 5.0, "judge": ["bright", "coin"]}, "scores of one judge"),
        ({"method": "kto", "timestep_weight": "balanced"}, "margins of pairs"),
        ({"method": "diffusion-nft", "share_reference": True}, "reference"),
        ({"method": "dpo", "adaptive_k1": 5.0}, "adaptive_k1 belong to adaptive: true"),
        ({"method": "adaptive-dpo", "adaptive_flip_constant": 0.5}, "add adaptive_flip_ratio"),
        ({"method": "adaptive-dpo", "adaptive_flip_ratio": 0.1}, "turns no vote around"),
        ({"method": "dedpo", "judge": "bright", "adaptive": True, "adaptive_flip_ratio": 0.1, "adaptive_flip_threshold": 0.3}, "not linear in the label"),
        ({"method": "spin", "weight_dtype": "bf16", "mixed_precision": "bf16"}, "samples with the model in fp32"),
        ({"method": "spo", "reward": "brightness", "weight_dtype": "bf16", "mixed_precision": "bf16"}, "Remove weight_dtype"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_reason(changes, reason):
    with pytest.raises(PalateError, match=reason):
        load_config({"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o", **changes})


def test_a_loss_without_reference_can_be_validated_with_all_weights_trained(pipeline_folder, voted, tmp_path):
    options = dict(method="mapo", held_out_votes=0.3, validation_steps=1, max_train_steps=2)
    run = palate.train(settings(pipeline_folder, voted, tmp_path / "run", **options))
    assert run.metrics[1]["validation/cross_entropy"] != pytest.approx(0.693147, abs=1e-5)


def test_swap_turns_everything_around_that_comes_from_votes(voted):
    base = {"pretrained_model_name_or_path": "world", "dataset": str(voted.path), "output_dir": "o", "method": "dedpo", "judge": "bright",
            "correction": "none", "madpo": 1.0, "held_out_votes": 0.3}  # fmt: skip
    plain, swapped = (prepare_rows(voted, load_config({**base, "swap": swap})) for swap in (False, True))
    assert np.allclose(swapped.target, 1 - plain.target) and np.allclose(swapped.pseudo, 1 - plain.pseudo)
    assert np.allclose(swapped.judge_margin, -plain.judge_margin)
    assert np.allclose(swapped.held_out.target, 1 - plain.held_out.target)


def test_every_part_of_the_votes_holds_out_the_same(voted):
    base = {
        "pretrained_model_name_or_path": "world",
        "dataset": str(voted.path),
        "output_dir": "o",
        "held_out_votes": 0.3,
    }
    held = [
        set(prepare_rows(voted, load_config({**base, "leave_out_fold": fold})).held_out.id)
        for fold in (None, (0, 2), (1, 2))
    ]
    assert held[0] == held[1] == held[2]


@pytest.mark.parametrize("lora", [{"rank": 4}, None], ids=["lora", "full"])
def test_a_second_round_starts_and_has_its_reference_where_the_first_ended(lora, pipeline_folder, voted, tmp_path):
    options = dict(lora=lora, max_train_steps=2, method="spin", sampling_steps=2, beta=5000.0)
    first = palate.train(settings(pipeline_folder, voted, tmp_path / "first", **options))
    second = palate.train(settings(pipeline_folder, voted, tmp_path / "second", **options, start_from=str(first.path)))
    assert second.metrics[0]["rewards/margins"] == 0.0  # against the first round's model, not the base
    samples = [load_file(run.path / "reference-samples.safetensors")["latents"] for run in (first, second)]
    assert not torch.equal(*samples)  # the second round plays against the first
    loaded = UNet2DConditionModel.from_pretrained(second.model_path, subfolder="unet")  # whole, also with adapters
    nothing = palate.train(
        settings(
            pipeline_folder, voted, tmp_path / "still", **options | {"learning_rate": 0.0}, start_from=str(second.path)
        )
    )
    still = UNet2DConditionModel.from_pretrained(nothing.model_path, subfolder="unet")
    for name, weight in loaded.state_dict().items():
        torch.testing.assert_close(still.state_dict()[name], weight, msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "dedpo", "judge": "bright", "correction": "none", "link": "holder", "safeguard": 0.5, "adaptive": True, "region": 0.1},
        {"method": "dedpo", "judge": "self", "self_judge": "online", "correction": "none", "link": "ipo", "safeguard": 0.0, "safeguard_mode": "exact"},
        {"method": "npo", "safeguard": 0.5, "amapo": True, "losses": {"preference": 1.0, "winner": 0.2}},
        {"method": "mapo", "safeguard": 0.5, "losses": {"mapo": 1.0, "winner": 1.0, "preference": 0.5}},
        {"method": "spin", "sampling_steps": 2, "link": "dmpo", "safeguard": 0.5, "noise": "renoise", "inversion_steps": 2},
        {"method": "dedpo", "judge": "bright", "correction": "calibrate", "flip_rate": 0.1, "madpo": 1.0, "uncertainty": 2.0, "uncertainty_form": "margin", "held_out_votes": 0.3},
        configuration("spo", link="holder", safeguard=0.5),
        {"method": "dedpo", "judge": "bright", "losses": {"nft": 1.0, "preference": 1.0}, "link": "mixture", "timestep_weight": "linear"},
        {"method": "self-training-crossfit", "self_draws": 1, "madpo": 1.0, "label_smoothing": 0.1, "swap": True, "held_out_votes": 0.3, "validation_steps": 1},
        {"method": "dspo-sd15", "losses": {"dspo-sd15": 1.0, "preference": 0.1}, "safeguard": 0.9, "safeguard_mode": "batch", "beta": 500.0},
    ],
)  # fmt: skip
def test_parts_of_different_methods_combine(changes, pipeline_folder, voted, tmp_path):
    run = palate.train(
        settings(pipeline_folder, voted, tmp_path / "run", max_train_steps=3, lora={"rank": 4}, **changes)
    )
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in run.metrics)
