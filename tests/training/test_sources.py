"""Where the noised images of a step come from: what is shared, what is addressed, and the formulas behind the targets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny import make_labelled_dataset
from training.test_methods import configuration
from training.test_train import settings

from palate.backbones import load_backbone
from palate.data.dataset import PreferenceDataset
from palate.encoding.cache import encode_pairs
from palate.labels.votes import prepare_rows
from palate.objectives.losses import HUBER_WIDTH, LOSSES
from palate.run.load import load_config
from palate.training.assemble import Parts, assemble


@pytest.fixture(scope="module")
def voted(tmp_path_factory) -> PreferenceDataset:
    return make_labelled_dataset(tmp_path_factory.mktemp("sources") / "data", pairs=18, labelled=18)


@pytest.fixture
def parts(pipeline_folder, voted, tmp_path):
    def build(method: str, **changes) -> Parts:
        config = load_config(settings(pipeline_folder, voted, tmp_path / method, **configuration(method, **changes)))
        (tmp_path / method).mkdir(exist_ok=True)
        backbone = load_backbone(config.pretrained_model_name_or_path)
        return assemble(config, voted, backbone, prepare_rows(voted, config), Accelerator(), tmp_path / method)

    return build


def schedule(made: Parts) -> torch.Tensor:
    return made.stepper.networks.backbone.noise_schedule.alphas_cumprod


def noise_in(problem, latents, made) -> torch.Tensor:
    abar = schedule(made)[problem.timestep].view(-1, 1, 1, 1)
    return (problem.noisy - abar.sqrt() * latents) / (1 - abar).sqrt()


def encoded(made: Parts, voted, images) -> torch.Tensor:
    return encode_pairs(voted, made.stepper.networks.backbone).image_latents(images)


def test_both_images_of_a_pair_share_timestep_noise_and_prompt(parts, voted):
    made = parts("dpo")
    problem = made.stepper.source(0)
    rows = len(problem.row)
    images = [made.rows.images[i][k] for k in (0, 1) for i in problem.row]
    noise = noise_in(problem, encoded(made, voted, images), made)
    assert torch.equal(problem.timestep[:rows], problem.timestep[rows:])
    assert torch.equal(problem.conditioning["embeddings"][:rows], problem.conditioning["embeddings"][rows:])
    torch.testing.assert_close(noise[:rows], noise[rows:], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(problem.regression_target, noise, rtol=1e-4, atol=1e-3)


def test_a_pairs_draw_does_not_depend_on_its_batch(parts):
    small, large = (parts("dpo", train_batch_size=size).stepper.source for size in (1, 6))
    by_id = {}
    for index in range(18):
        problem = small(index)
        by_id[problem.row_id[0], problem.number[0]] = problem.noisy[0]
    problem = large(1)
    for k, key in enumerate(zip(problem.row_id, problem.number, strict=True)):
        if key in by_id:
            assert torch.equal(by_id[key], problem.noisy[k])


def test_the_models_own_votes_are_taken_at_draws_that_the_loss_never_sees(parts):
    made = parts("self-training", train_batch_size=6)
    of_loss = [made.stepper.source(index) for index in range(6)]
    votes = [made.stepper.pair_weights.redraw(of_loss[0], k) for k in range(3)]
    for vote in votes:
        assert torch.equal(vote.row, of_loss[0].row) and vote.row_id == of_loss[0].row_id
    seen = {image.numpy().tobytes() for problem in of_loss for image in problem.noisy}
    drawn = [image.numpy().tobytes() for vote in votes for image in vote.noisy]
    assert len(seen) == 72 and len(set(drawn)) == 36 and seen.isdisjoint(drawn)
    again = made.stepper.pair_weights.redraw(of_loss[0], 0)
    assert torch.equal(again.noisy, votes[0].noisy)  # addressed, as every draw


def test_sudo_sets_a_preferred_image_against_one_of_another_prompt_under_its_own(parts, voted):
    made = parts("sudo")
    source, rows = made.stepper.source, made.rows
    every = encoded(made, voted, [images[0] for images in rows.images])
    others = set()
    for index in range(8):
        problem = source(index)
        count = len(problem.row)
        assert (problem.target == 1).all()
        noise = noise_in(problem, torch.cat([every[problem.row], every[problem.row]]), made)[:count]
        abar = schedule(made)[problem.timestep[:count]].view(-1, 1, 1, 1)
        second = (problem.noisy[count:] - (1 - abar).sqrt() * noise) / abar.sqrt()  # shares the draw
        for k, row in enumerate(problem.row.tolist()):
            distance = (every - second[k]).flatten(1).norm(dim=1) * abar[k].sqrt().item()
            found = int(distance.argmin())
            assert rows.prompt[found] != rows.prompt[row]
            others.add((row, found))
        assert torch.equal(problem.conditioning["embeddings"][:count], problem.conditioning["embeddings"][count:])
    assert len({found for _, found in others}) > 6  # many others, not one
    assert (rows.target == 1).all() and len(rows) == 18  # only images that were preferred


def test_self_npo_regresses_on_the_unconditional_view_of_the_reference(parts, monkeypatch):
    made = parts("self-npo", lora={"rank": 4})
    networks, seen = made.stepper.networks, []
    plain = networks.raw_predict

    def watched(network, noisy, timestep, conditioning):
        prediction = plain(network, noisy, timestep, conditioning)
        seen.append((noisy, timestep, conditioning["embeddings"], prediction))
        return prediction

    monkeypatch.setattr(networks, "raw_predict", watched)
    problem = made.stepper.source(0)
    assert 1 <= len(seen) <= 5
    empty = seen[0][2]
    assert all(torch.equal(embeddings, empty) for _, _, embeddings, _ in seen) and torch.equal(empty[0], empty[1])
    assert not torch.equal(problem.conditioning["embeddings"][0], empty[0])  # the policy sees the prompt
    abar = schedule(made)[problem.timestep].view(-1, 1, 1, 1)
    x0 = (problem.noisy - (1 - abar).sqrt() * problem.regression_target) / abar.sqrt()
    candidates = []
    for noisy, timestep, _, prediction in seen:
        a = schedule(made)[timestep].view(-1, 1, 1, 1)
        candidates.append((noisy - (1 - a).sqrt() * prediction) / a.sqrt())
    for k in range(len(x0)):  # each row's target is the reference's x_0 at one of its steps
        error = min(
            (candidate[k] - x0[k]).abs().max().item() / candidate[k].abs().max().item() for candidate in candidates
        )
        assert error < 1e-3
    for _, timestep, _, _ in seen[:1]:
        assert (problem.timestep >= timestep - 5 * 40).all()

    measured = made.stepper._measure(problem)
    prediction = networks.predict(made.policy.network, problem)
    predicted = (problem.noisy - (1 - abar).sqrt() * prediction) / abar.sqrt()
    distance = (predicted - x0).double()
    by_hand = ((distance.square() + HUBER_WIDTH**2).sqrt() - HUBER_WIDTH).flatten(1).mean(dim=1)
    torch.testing.assert_close(LOSSES["self-npo"](measured).double(), by_hand, rtol=1e-3, atol=1e-5)


def test_spin_plays_against_samples_of_the_reference_for_the_same_prompt(parts, tmp_path):
    made = parts("spin", lora={"rank": 4})
    problem = made.stepper.source(0)
    samples = load_file(tmp_path / "spin/reference-samples.safetensors")["latents"]
    assert len(samples) == len(made.rows) and (problem.target == 1).all()
    count = len(problem.row)
    abar = schedule(made)[problem.timestep].view(-1, 1, 1, 1)
    noise = problem.regression_target
    second = (problem.noisy[count:] - (1 - abar[count:]).sqrt() * noise[count:]) / abar[count:].sqrt()
    torch.testing.assert_close(
        second * abar[count:].sqrt(), samples[problem.row] * abar[count:].sqrt(), rtol=1e-3, atol=1e-3
    )


def test_own_steps_share_their_input_and_have_the_precision_of_the_step(parts):
    made = parts("spo", lora={"rank": 4})
    problem = made.stepper.source(0)
    count = len(problem.row)
    assert problem.one_input and torch.equal(problem.noisy[:count], problem.noisy[count:])
    assert not torch.equal(problem.regression_target[:count], problem.regression_target[count:])
    assert torch.equal(problem.error_weight[:count], problem.error_weight[count:]) and (problem.error_weight > 0).all()
    assert set(problem.target.tolist()) <= {0.0, 1.0}
    assert made.stepper.source(0).row_id == problem.row_id  # the round is kept


def test_inversion_gives_each_image_its_own_noise_and_the_regression_goes_there(parts, voted):
    made = parts("inpo", lora={"rank": 4}, inversion_steps=3)
    problem = made.stepper.source(0)
    count = len(problem.row)
    images = [made.rows.images[i][k] for k in (0, 1) for i in problem.row]
    noise = noise_in(problem, encoded(made, voted, images), made)
    torch.testing.assert_close(problem.regression_target, noise, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(noise[:count], noise[count:], atol=1e-3)


def test_a_single_image_has_its_own_draw_and_the_vote_as_its_target(parts):
    made = parts("kto")
    problem = made.stepper.source(0)
    assert problem.images == 1 and len(problem.noisy) == len(problem.target)
    assert len(set(problem.timestep.tolist())) > 1
    liked = dict(zip(made.rows.id, made.rows.target, strict=True))
    assert [liked[i] for i in problem.row_id] == problem.target.tolist()
    assert np.isin(problem.target.numpy(), (0, 1)).all() and len(made.rows) == 36


def test_a_list_is_padded_and_the_padding_has_no_gradient(parts):
    made = parts("diffusion-lpo")
    problem = made.stepper.source(0)
    assert problem.rank.shape == problem.present.shape == (len(problem.row), problem.images)
    measured = made.stepper._measure(problem)
    leaf = measured.error.detach().requires_grad_()
    LOSSES["ranking"](replace(measured, error=leaf)).sum().backward()
    assert (leaf.grad.T[~problem.present] == 0).all()
    assert (leaf.grad.T[problem.present] != 0).any()


def test_spin_samples_at_the_resolution_of_the_run(parts, tmp_path):
    made = parts("spin", lora={"rank": 4}, resolution=32)  # the model was made for 64 pixels
    assert made.stepper.source(0).noisy.shape[2:] == (4, 4)
    assert load_file(tmp_path / "spin/reference-samples.safetensors")["latents"].shape[2:] == (4, 4)
