"""Pairs of next steps from one shared x_t: who wins, that they can be reached from there, and that all is addressed."""

from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import PROMPTS

from palate.backbones import load_backbone
from palate.backbones.guidance import guided_prediction
from palate.backbones.trajectories import step_distribution, step_regression, x0_and_noise
from palate.errors import PalateError
from palate.judges.rewards import load_reward
from palate.objectives.logit import denoising_error
from palate.training.rollouts import StepPairs, collect_step_pairs

QUICK = {"steps": 5, "first_step": 2, "candidates": 3, "guidance": 3.0, "threshold": 0.0}


def brightness(images, prompts):
    return images.mean(axis=(1, 2, 3), dtype=np.float64)


@pytest.fixture(scope="module")
def backbone(pipeline_folder):
    return load_backbone(str(pipeline_folder))


@pytest.fixture(scope="module")
def pairs(backbone):
    return collect_step_pairs(backbone, backbone.network, list(PROMPTS), (0, 0), brightness, **QUICK)


def test_steps_are_sampled_at_the_resolution_that_is_asked_for(backbone, pairs):
    assert pairs.noisy.shape[1:] == backbone.latent_shape(backbone.resolution)
    smaller = collect_step_pairs(
        backbone, backbone.network, list(PROMPTS), (0, 0), brightness, resolution=backbone.resolution // 2, **QUICK
    )
    assert smaller.noisy.shape[1:] == smaller.next_0.shape[1:] == backbone.latent_shape(backbone.resolution // 2)


def equal(a, b):
    return all(
        torch.equal(getattr(a, f.name), getattr(b, f.name)) if f.type is torch.Tensor
        else getattr(a, f.name) == getattr(b, f.name) for f in fields(StepPairs)
    )  # fmt: skip


@torch.no_grad()
def predict(backbone, pairs, noisy, timestep):
    """The guided prediction at latents that belong to the pairs' prompts, by the formula."""
    given = backbone.predict(backbone.network, noisy, timestep, backbone.encode_prompts(pairs.prompt))
    without = backbone.predict(backbone.network, noisy, timestep, backbone.encode_prompts([""] * len(pairs)))
    return without + pairs.guidance * (given - without)


@torch.no_grad()
def rewards(backbone, pairs, following, reward):
    """The reward of each pair's candidate, computed anew, of the predicted x_0."""
    schedule = backbone.noise_schedule
    prediction = predict(backbone, pairs, following, pairs.previous)
    x0, _ = x0_and_noise(
        prediction, following, pairs.previous, schedule.alphas_cumprod, schedule.config.prediction_type
    )
    decoded = backbone.vae.decode(x0 / backbone.vae.config.scaling_factor).sample
    pictures = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return reward(pictures, pairs.prompt)


def z_scores(backbone, pairs, following):
    """How many standard deviations each element of a candidate lies from the mean of the step that was sampled."""
    prediction = predict(backbone, pairs, pairs.noisy, pairs.timestep)
    schedule = backbone.noise_schedule
    where = (pairs.timestep, pairs.previous, schedule.alphas_cumprod, schedule.config.prediction_type, pairs.eta)
    mean, std = step_distribution(pairs.noisy, prediction, *where)
    return (following - mean) / std.view(-1, 1, 1, 1)


def test_every_step_from_the_first_gives_a_pair_when_nothing_is_filtered(pairs):
    assert len(pairs) == pairs.ranked == 9
    assert pairs.timestep.tolist() == [799, 599, 399] * 3 and pairs.previous.tolist() == [599, 399, 199] * 3
    assert pairs.prompt == [prompt for prompt in PROMPTS for _ in range(3)]
    assert pairs.noisy.shape == pairs.next_0.shape == pairs.next_1.shape == (9, 4, 8, 8)
    assert pairs.noisy.dtype == pairs.probability.dtype == pairs.gap.dtype == torch.float32
    assert (pairs.guidance, pairs.eta) == (3.0, 1.0)


def test_the_target_says_which_candidate_has_the_higher_reward(backbone, pairs):
    scores = [rewards(backbone, pairs, following, brightness) for following in (pairs.next_0, pairs.next_1)]
    assert pairs.probability.tolist() == (scores[0] > scores[1]).astype(float).tolist()
    assert 0 < pairs.probability.mean() < 1  # either candidate may be the better one
    np.testing.assert_allclose(pairs.gap, np.tanh(np.abs(scores[0] - scores[1]) / 2), atol=0.05)  # rounded to 8 bits


def test_both_candidates_are_draws_from_the_step_at_the_shared_latents(backbone, pairs):
    z = [z_scores(backbone, pairs, following) for following in (pairs.next_0, pairs.next_1)]
    together = torch.cat(z).flatten().numpy()  # 2·9·256 numbers
    assert stats.kstest(together, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(z[0].flatten(), z[1].flatten())[0, 1]) < 0.1
    where = (backbone.noise_schedule.alphas_cumprod, backbone.noise_schedule.config.prediction_type, pairs.eta)
    prediction = predict(backbone, pairs, pairs.noisy, pairs.timestep)
    for following, score in zip((pairs.next_0, pairs.next_1), z, strict=True):
        target, weight = step_regression(pairs.noisy, following, pairs.timestep, pairs.previous, *where)
        half_square = score.square().mean(dim=(1, 2, 3)) / 2  # minus the log-density of what was sampled
        torch.testing.assert_close(weight * denoising_error(prediction, target), half_square, rtol=1e-3, atol=1e-4)


def test_v_prediction_is_sampled_by_its_own_formulas(v_pipeline_folder):
    backbone = load_backbone(str(v_pipeline_folder))
    pairs = collect_step_pairs(backbone, backbone.network, list(PROMPTS), (0, 0), brightness, **QUICK | {"eta": 0.7})
    z = z_scores(backbone, pairs, torch.stack([pairs.next_0, pairs.next_1])[0])
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-4
    scores = [rewards(backbone, pairs, following, brightness) for following in (pairs.next_0, pairs.next_1)]
    assert pairs.probability.tolist() == (scores[0] > scores[1]).astype(float).tolist()


def test_a_trajectory_goes_on_from_one_of_its_candidates(backbone):
    """With two candidates both are stored, so the next shared latents must be one of them, and not always the better one."""
    settings = QUICK | {"candidates": 2, "steps": 7, "first_step": 1}
    pairs = collect_step_pairs(backbone, backbone.network, list(PROMPTS), (1, 0), brightness, **settings)
    assert len(pairs) == 18
    went_to_better = []
    for k in range(17):
        if pairs.previous[k] == pairs.timestep[k + 1]:
            from_0 = torch.equal(pairs.noisy[k + 1], pairs.next_0[k])
            assert from_0 or torch.equal(pairs.noisy[k + 1], pairs.next_1[k])
            went_to_better.append(from_0 == (pairs.probability[k] == 1))
    assert len(went_to_better) == 15 and 0 < sum(went_to_better) < 15


def test_a_step_takes_one_forward_at_each_candidate(backbone):
    """Guidance doubles a forward. Before the ranked steps a trajectory has one candidate."""
    told, unet = [], backbone.network

    def counted(noisy, timestep, embeddings, return_dict):
        told.append((len(noisy), *timestep.unique().tolist()))
        return unet(noisy, timestep, embeddings, return_dict=return_dict)

    pairs = collect_step_pairs(backbone, counted, list(PROMPTS), (0, 0), brightness, **QUICK | {"first_step": 2})
    assert told == [(6, 999), (6, 799), (18, 599), (18, 399), (18, 199)]
    assert pairs.ranked == 9


def test_the_same_arguments_give_the_same_bits_and_every_part_of_the_address_counts(backbone, pairs):
    def collect(prompts, *where, **changes):
        return collect_step_pairs(backbone, backbone.network, prompts, where, brightness, **QUICK | changes)

    torch.manual_seed(5)  # the global generator has no part in it
    assert equal(collect(list(PROMPTS), 0, 0), pairs)
    for other in (collect(list(PROMPTS), 1, 0), collect(list(PROMPTS), 0, 1)):
        assert not torch.isclose(other.noisy, pairs.noisy).all(dim=(1, 2, 3)).any()
    same = collect([PROMPTS[0]] * 2, 0, 0)  # two rollouts of one prompt
    assert not torch.isclose(same.noisy[:3], same.noisy[3:]).all(dim=(1, 2, 3)).any()
    one_by_one = collect(list(PROMPTS), 0, 0, batch_size=1)
    assert one_by_one.prompt == pairs.prompt and torch.equal(one_by_one.probability, pairs.probability)
    torch.testing.assert_close(one_by_one.next_1, pairs.next_1, rtol=1e-3, atol=1e-3)


def test_which_candidate_is_0_does_not_depend_on_the_reward(backbone, pairs):
    """The opposite reward exchanges best and worst: the same latents in other places, and balanced labels."""
    opposite = collect_step_pairs(
        backbone, backbone.network, list(PROMPTS), (0, 0), lambda images, prompts: -brightness(images, prompts), **QUICK
    )
    assert torch.equal(opposite.probability, pairs.probability)
    assert torch.equal(opposite.next_0, pairs.next_1) and torch.equal(opposite.noisy, pairs.noisy)


def test_the_threshold_keeps_the_pairs_with_a_wider_gap(backbone, pairs):
    low, high = pairs.gap.sort().values[4:6].tolist()
    bound = (low + high) / 2  # between two gaps: another batch size may round
    some = collect_step_pairs(
        backbone, backbone.network, list(PROMPTS), (0, 0), brightness, **QUICK | {"threshold": bound, "batch_size": 2}
    )
    kept = pairs.gap > bound
    assert 0 < len(some) == kept.sum() < len(pairs) and some.ranked == 9
    assert (some.gap > bound).all()
    torch.testing.assert_close(some.noisy, pairs.noisy[kept], rtol=1e-3, atol=1e-3)


def test_temperature_scales_the_reward_and_soft_targets_are_its_bradley_terry_probabilities(backbone, pairs):
    soft = collect_step_pairs(
        backbone, backbone.network, list(PROMPTS), (0, 0), brightness, **QUICK | {"temperature": 4.0, "soft": True}
    )
    assert torch.equal(soft.next_0, pairs.next_0)
    torch.testing.assert_close(torch.atanh(soft.gap), torch.atanh(pairs.gap) / 4, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close((2 * soft.probability - 1).abs(), soft.gap)  # sigmoid(d) - sigmoid(-d)
    assert torch.equal(soft.probability > 0.5, pairs.probability == 1)


def test_equal_rewards_make_no_pair_and_that_is_said(backbone):
    with pytest.raises(PalateError, match="none of 9 steps") as refused:
        collect_step_pairs(backbone, backbone.network, list(PROMPTS), (0, 0), lambda i, p: np.zeros(len(i)), **QUICK)
    assert "\n" not in str(refused.value)


def test_a_reward_that_is_not_a_number_is_refused(backbone):
    with pytest.raises(PalateError, match="9 of them not a number"):
        collect_step_pairs(
            backbone, backbone.network, list(PROMPTS), (0, 0), lambda i, p: np.full(len(i), np.nan), **QUICK
        )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"steps": 1}, "steps 1"), ({"steps": 1001}, "from 2 to 1000"), ({"eta": 0.0}, "eta 0.0"),
        ({"first_step": 5}, "first_step 5"), ({"first_step": 0}, "first_step 0"), ({"candidates": 1}, "candidates 1"),
        ({"threshold": 1.0}, "threshold 1.0"), ({"temperature": 0.0}, "temperature 0.0"), ({"temperature": np.nan}, "temperature nan"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_before_sampling(backbone, change, line):
    with pytest.raises(PalateError, match=line):
        collect_step_pairs(backbone, None, ["a red circle"], (0, 0), brightness, **QUICK | change)
    with pytest.raises(PalateError, match="no prompts"):
        collect_step_pairs(backbone, None, [], (0, 0), brightness, **QUICK)


def test_pairs_come_back_from_disk_as_they_were(pairs, tmp_path):
    path = tmp_path / "rollouts" / "round-000003.safetensors"
    pairs.save(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert equal(StepPairs.load(path), pairs)


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_file_that_is_not_whole_gets_one_line(damage, pairs, tmp_path):
    path = tmp_path / "pairs.safetensors"
    pairs.save(path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        from safetensors.torch import save_file

        save_file({"latents": torch.zeros(2)}, path)
    with pytest.raises(PalateError, match="no complete file of step pairs") as refused:
        StepPairs.load(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_guidance_is_the_formula_and_one_forward_at_1(backbone, pairs):
    conditioning, unconditional = backbone.encode_prompts(pairs.prompt), backbone.encode_prompts([""])
    calls = []

    def counted(noisy, timestep, embedding, return_dict):
        calls.append(len(noisy))
        return (0.1 * noisy + embedding.mean(dim=(1, 2)).view(-1, 1, 1, 1),)

    def at(guidance):
        predict = partial(backbone.predict, counted)
        return guided_prediction(predict, pairs.noisy, pairs.timestep, conditioning, unconditional, guidance)

    given, without = at(1), at(0)
    assert calls == [9, 18]
    assert not torch.allclose(given, without)
    torch.testing.assert_close(at(5.0), without + 5 * (given - without), rtol=1e-4, atol=1e-5)


def test_guided_predictions_carry_gradients_through_both_branches(backbone):
    conditioning, unconditional = {"embeddings": torch.ones(1, 2, 3)}, {"embeddings": torch.zeros(1, 2, 3)}
    scale = torch.ones((), requires_grad=True)

    def network(noisy, timestep, embedding, return_dict):
        return (scale * (1 + embedding.mean(dim=(1, 2)).view(-1, 1, 1, 1)) * noisy,)

    predict = partial(backbone.predict, network)
    prediction = guided_prediction(predict, torch.ones(1, 1, 2, 2), torch.tensor([5]), conditioning, unconditional, 5.0)
    assert prediction.mean().item() == pytest.approx(1 + 5 * (2 - 1))
    prediction.mean().backward()
    assert scale.grad.item() == pytest.approx(6)  # without: 1, given: 2


def test_the_world_is_ranked_by_its_true_utility():
    world, reward = load_backbone("world"), load_reward("world")
    prompts = ["a red circle", "a blue star"]
    pairs = collect_step_pairs(
        world,
        world.network,
        prompts,
        ("world", 0),
        reward,
        steps=8,
        first_step=4,
        candidates=3,
        threshold=0.1,
        temperature=0.16,
    )
    assert 0 < len(pairs) <= pairs.ranked == 8
    scores = [rewards(world, pairs, following, reward) for following in (pairs.next_0, pairs.next_1)]
    better = np.where(pairs.probability == 1, scores[0] - scores[1], scores[1] - scores[0])
    assert (better > 0).all() and set(pairs.probability.tolist()) <= {0.0, 1.0}
    for following in (pairs.next_0, pairs.next_1):
        z = z_scores(world, pairs, following).flatten(1)
        assert (z.mean(dim=1).abs() < 5 / z.shape[1] ** 0.5).all() and ((z.std(dim=1) - 1).abs() < 0.3).all()
