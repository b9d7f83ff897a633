"""Each method, trained in the small world for enough steps to show its effect, on pairs and prompts' noise it never saw.

    python -m pytest -m slow tests/slow

The effect of most methods is that the logit of held-out pairs goes with the true difference of their utilities, which no
model is told; of the others it is what they are for. Every figure is printed with its standard error at the end.
"""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from slow.world import BETA, correlation, make_crowd, make_lists, make_world, mean

import palate
from palate.data.samples import Sampling
from palate.demos.dataset import SAMPLING
from palate.presets import methods
from palate.sampling.samples import sample
from palate.world.measure import measure
from palate.world.pictures import PROMPTS
from palate.world.voters import true_utility

pytestmark = pytest.mark.slow

FEW = {"human_votes": 128}  # the judge has a say where people have not
BIASED = {"judge": "biased-judge", "hard_votes": True}
# What a method needs in the small world beyond its preset, and how long it takes there.
EXTRA = {
    "auto": FEW | {"judge": "biased-judge"}, "mix": FEW | BIASED, "dedpo": FEW | {"judge": "biased-judge"}, "dedpo-tuned": FEW | {"judge": "poor-judge"}, "doubly-robust": FEW | BIASED,
    "madpo": {"judge": "biased-judge", "max_train_steps": 80}, "smpo": {"judge": "biased-judge", "max_train_steps": 60}, "self-training": {"human_votes": 192, "self_draws": 2},
    "self-training-crossfit": {"human_votes": 192, "self_draws": 2}, "kto": {"train_batch_size": 32}, "threshold-guided": {"train_batch_size": 32},
    "diffusion-nft": {"train_batch_size": 32}, "sdpo": {"safeguard": 0.3},
    "spin": {"sampling_steps": 6, "sampling_guidance": 2.0}, "rn-dpo": {"max_train_steps": 80}, "adaptive-dpo": {"max_train_steps": 60}, "adaptive-ipo": {"max_train_steps": 60},
    "dspo-sdxl": {"beta": BETA}, "dspo-sd15": {"beta": 0.001}, "balanced-dpo": {"judge": ["biased-judge", "poor-judge"], "reference_steps": 10},
}  # fmt: skip
LEARNS_THE_TRUTH = [
    "adaptive-dpo", "adaptive-ipo", "alpha-dpo", "amapo", "auto", "balanced-dpo", "cdpo", "dedpo", "dedpo-tuned", "diffusion-lpo", "dmpo", "doubly-robust", "dpo", "dpo-sft", "dspo-sdxl",
    "diffusion-nft", "gce", "hinge", "holder-dpo", "ipo", "kto", "linear-dpo", "madpo", "mapo", "mix", "poly-dpo", "rankdpo", "rdpo", "re-po", "rethinking-dpo", "rn-dpo", "sce", "sdpo", "sdpo-exact", "self-training",
    "self-training-crossfit", "sudo", "threshold-guided", "uncertainty-dpo",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    data, held = make_world(folder)
    return folder, data, held


@pytest.fixture(scope="module")
def table():
    """method -> effect; printed when all are done."""
    found: dict[str, str] = {}
    yield found
    print("\n" + "\n".join(f"| `{name}` | {told} |" for name, told in found.items()))


def train(world, name: str, tag: str | None = None, dataset=None, **changes):
    folder, data, _ = world
    config = {
        "pretrained_model_name_or_path": "world", "dataset": str((dataset or data).path), "output_dir": str(folder / "runs" / (tag or name)), "method": name,
        "beta": BETA, "learning_rate": 5e-5, "lr_scheduler": "constant", "train_batch_size": 16, "max_train_steps": 40, "checkpointing_steps": 1000, "report_to": "none",
    }  # fmt: skip
    people = {} if dataset is not None else {"human_annotators": ["majority"]}
    return palate.train({**config, **people, **EXTRA.get(name, {}), **changes})


@pytest.mark.parametrize("name", LEARNS_THE_TRUTH)
def test_held_out_logits_go_with_the_true_utility(name, world, table):
    lists = None
    if name in ("diffusion-lpo", "rankdpo"):
        folder = world[0] / "lists"
        lists = make_lists(folder, world[1]) if not folder.exists() else palate.open_dataset(str(folder))
    run = train(world, name, dataset=lists)
    found, error = correlation(world[2].logits(run.path), world[2].utility)
    table[name] = f"correlation of held-out logits with the true utility {found:.2f} ± {error:.2f}"
    assert found > 2 * error


def test_a_judge_alone_teaches_its_bias(world, table):
    run = train(world, "judge", judge="biased-judge")
    bright, error = correlation(world[2].logits(run.path), world[2].brightness)
    table["judge"] = f"correlation of held-out logits with brightness {bright:.2f} ± {error:.2f} (people prefer dark)"
    assert bright > 2 * error


def test_debiasing_takes_the_judge_s_bias_out(world, table):
    logits = {
        name: world[2].logits(train(world, name, f"{name}-raw", judge="biased-judge", correction="none", **FEW).path)
        for name in ("mix", "dedpo")
    }
    bright = {name: correlation(z, world[2].brightness) for name, z in logits.items()}
    table["dedpo against mix"] = (
        f"correlation with brightness {bright['dedpo'][0]:.2f} against {bright['mix'][0]:.2f} ± {bright['mix'][1]:.2f}"
    )
    assert bright["dedpo"][0] < bright["mix"][0] - 2 * bright["mix"][1]


def test_a_swapped_model_learns_the_opposite(world, table):
    run = train(world, "npo")
    found, error = correlation(world[2].logits(run.path), world[2].utility)
    table["npo"] = f"correlation of held-out logits with the true utility {found:.2f} ± {error:.2f}"
    assert found < -2 * error


@pytest.mark.parametrize("name", ["sft", "dspo-sd15"])
def test_supervised_methods_lower_the_winner_s_error(name, world, table):
    run = train(world, name, learning_rate=1e-5, max_train_steps=60)
    gains = world[2].gains(run.path)
    winner = np.where(world[2].utility > 0, gains[:, 0], gains[:, 1])
    gain, error = mean(1000 * winner)
    table[name] = f"winner's error falls by {gain:.2f} ± {error:.2f} thousandths"
    assert gain > 2 * error


@pytest.mark.parametrize("name", ["spin", "smpo", "inpo"])
def test_methods_with_draws_or_pairs_of_their_own_learn_these(name, world, table):
    """What they are trained on is not a random draw of a voted pair, so the effect is measured on their own draws."""
    changes = {} if name == "spin" else {"inversion_steps": 4}
    run = train(world, name, **changes)
    late = [line["rewards/accuracies"] for line in run.metrics[len(run.metrics) // 2 :]]
    share, error = mean(late)
    table[name] = (
        f"share of own draws on which the preferred side gains {share:.2f} ± {error:.2f}, second half of training"
    )
    assert share > 0.5 + 2 * error


def test_the_safeguard_keeps_the_winner_s_error_down_where_dpo_raises_it(world, table):
    errors = {}
    for name, changes in {"dpo": {}, "sdpo": {"safeguard": 0.9}}.items():
        gains = world[2].gains(
            train(world, name, f"{name}-aggressive", learning_rate=1e-4, max_train_steps=30, **changes).path
        )
        errors[name] = mean(-1000 * np.where(world[2].utility > 0, gains[:, 0], gains[:, 1]))
    table["sdpo against dpo"] = (
        f"winner's error rises by {errors['sdpo'][0]:.1f} ± {errors['sdpo'][1]:.1f} against {errors['dpo'][0]:.1f} ± {errors['dpo'][1]:.1f} thousandths"
    )
    assert errors["dpo"][0] > 2 * errors["dpo"][1]
    assert errors["sdpo"][0] < errors["dpo"][0] / 4


def test_the_exact_safeguard_has_work_to_do(world, table):
    run = train(world, "sdpo-exact", "sdpo-exact-share", learning_rate=1e-4, max_train_steps=30)
    share = np.mean([line["lambda/would_rise"] for line in run.metrics])
    table["sdpo-exact, steps"] = f"winners' error would have risen on {share:.0%} of {len(run.metrics)} steps"
    assert share > 0


def test_turned_votes_are_more_suspicious_than_others(world, table):
    folder = world[0] / "crowd"
    crowd, turned = make_crowd(folder, world[1])
    run = train(world, "adaptive-dpo", "adaptive-crowd", dataset=crowd, max_train_steps=120)
    seen = pq.read_table(run.path / "minority.parquet").to_pylist()
    suspicion = {
        flag: np.array([row["doubt"] for row in seen if (row["pair_id"] in turned) == flag]) for flag in (True, False)
    }
    difference = suspicion[True].mean() - suspicion[False].mean()
    error = np.hypot(*(values.std(ddof=1) / np.sqrt(len(values)) for values in suspicion.values()))
    table["adaptive-dpo, turned votes"] = (
        f"doubt of turned votes above that of others by {difference:.3f} ± {error:.3f}"
    )
    assert difference > 2 * error


def utility_of(world, model: str, tag: str, **guides) -> np.ndarray:
    """True utility of samples, [N], the same prompts and noise for every model."""
    settings = Sampling(**{**SAMPLING.__dict__, "repetitions": 4, **guides})
    samples = sample(model, list(PROMPTS), world[0] / "samples" / tag, settings)
    return true_utility(measure(samples.images(), samples.prompts))


@pytest.mark.parametrize("name", ["spo", "tailorpo"])
def test_on_policy_methods_raise_the_reward_of_samples(name, world, table):
    changes = dict(reward="world", reward_temperature=0.3, reward_gap=0.2, sampling_steps=6, first_sampling_step=2, sampling_guidance=2.0,
                   refresh_steps=10, prompts_per_round=24, ratio_clip=None, learning_rate=2e-5, max_train_steps=40)  # fmt: skip
    run = train(world, name, **changes)
    gain, error = mean(utility_of(world, str(run.path), name) - utility_of(world, "world", "base"))
    table[name] = f"true utility of samples above the base by {gain:.2f} ± {error:.2f}, n = {4 * len(PROMPTS)}"
    assert gain > 2 * error


def test_two_model_guidance_away_from_what_people_dislike_raises_utility(world, table):
    train(world, "npo")
    negative = str(world[0] / "runs/npo")
    base = utility_of(world, "world", "base")
    positive = train(world, "dpo", "dpo-still", learning_rate=0.0, max_train_steps=1)  # the base model as a run
    gain, error = mean(utility_of(world, str(positive.path), "npo-guided", negative=negative) - base)
    table["npo, as the negative model"] = (
        f"true utility of samples above the base by {gain:.2f} ± {error:.2f}, n = {len(base)}"
    )
    assert gain > 2 * error


def test_a_self_npo_model_guides_and_is_weaker_than_its_reference(world, table):
    run = train(world, "self-npo", learning_rate=2e-5, max_train_steps=60)
    alone, error = mean(utility_of(world, str(run.path), "self-npo") - utility_of(world, "world", "base"))
    table["self-npo"] = f"true utility of its own samples against the base {alone:.2f} ± {error:.2f}"
    late, early = ([line["loss"] for line in run.metrics[part]] for part in (slice(-15, None), slice(0, 15)))
    assert mean(late)[0] < mean(early)[0]  # it goes towards the unconditional view
    assert alone < -2 * error


def test_a_preference_classifier_guides_the_untouched_model(world, table):
    run = train(world, "pc-diffusion", beta=BETA, learning_rate=1e-3, max_train_steps=150, train_batch_size=32)
    late = mean([line["rewards/accuracies"] for line in run.metrics[-50:]])
    base = utility_of(world, "world", "base")
    gain, error = mean(utility_of(world, str(run.path), "pc", classifier_scale=1.0) - base)
    table["pc-diffusion"] = (
        f"accuracy on noisy pairs {late[0]:.2f} ± {late[1]:.2f}; true utility of guided samples above the base by {gain:.2f} ± {error:.2f}"
    )
    assert late[0] > 0.5 + 2 * late[1]
    assert gain > 2 * error


@pytest.mark.parametrize("name", [name for name in methods() if name != "pc-diffusion"])
def test_every_method_trains_here_with_adapters_too(name, world):
    judge = (
        {"judge": "biased-judge"}
        if name in ("auto", "mix", "judge", "dedpo", "dedpo-tuned", "doubly-robust", "smpo", "madpo")
        else {}
    )
    steps = (
        dict(reward="world", reward_gap=0.0, sampling_steps=4, first_sampling_step=1, prompts_per_round=4)
        if name in ("spo", "tailorpo")
        else {}
    )
    changes = {"lora": {"rank": 8}, "max_train_steps": 3, "learning_rate": 1e-3, **steps} | judge
    run = train(world, name, f"{name}-lora", **changes)
    assert len(run.metrics) == 3 and np.isfinite([line["loss"] for line in run.metrics]).all()
    assert json.loads((run.path / "labels.json").read_text())["method"] == name
