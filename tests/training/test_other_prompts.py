"""Pairs of one image and two prompts: TPO's mismatch and DDSPO's perturbed predictions."""

import pytest
import torch
from accelerate import Accelerator
from tiny import PROMPTS, refusal
from training.test_train import settings

from palate.backbones import load_backbone
from palate.encoding.cache import encode_pairs
from palate.labels.votes import prepare_rows
from palate.objectives.logit import denoising_error
from palate.run.load import load_config
from palate.training.assemble import assemble
from palate.training.other_prompts import without_words


@pytest.fixture
def parts(pipeline_folder, dataset, tmp_path):
    def build(**changes):
        config = load_config(settings(pipeline_folder, dataset, tmp_path / "run", **changes))
        backbone = load_backbone(config.pretrained_model_name_or_path)
        (tmp_path / "run").mkdir(exist_ok=True)
        made = assemble(config, dataset, backbone, prepare_rows(dataset, config), Accelerator(), tmp_path / "run")
        return made, encode_pairs(dataset, backbone)  # all is there

    return build


def embedded(encoded, prompts):
    return encoded.prompt_conditioning(prompts)["embeddings"]


@pytest.mark.parametrize("other_prompt", ["another", "words"])
def test_one_noisy_image_stands_under_its_own_and_under_a_wrong_prompt(other_prompt, parts):
    made, encoded = parts(method="tpo", other_prompt=other_prompt)
    problem = made.stepper.source(0)
    for tensor in (problem.noisy, problem.timestep, problem.regression_target):
        own, other = tensor.chunk(2)
        assert torch.equal(own, other)
    own, other = problem.conditioning["embeddings"].chunk(2)
    prompts = [made.rows.prompt[row] for row in problem.row]
    assert torch.equal(own, embedded(encoded, prompts)) and problem.images == 2 and (problem.target == 1).all()
    allowed = {p: [without_words(p, 0)] if other_prompt == "words" else [q for q in PROMPTS if q != p] for p in prompts}
    for row, prompt in enumerate(prompts):
        assert any(torch.equal(other[row], embedded(encoded, [text])[0]) for text in allowed[prompt])
    assert made.stepper.networks.logits(problem).abs().max() == 0
    again = made.stepper.source(0)
    assert torch.equal(again.conditioning["embeddings"], problem.conditioning["embeddings"])  # it has no state


def test_a_perturbed_prompt_gives_predictions_as_targets_and_the_preferred_side_starts_without_a_gradient(parts):
    made, encoded = parts(method="ddspo")
    problem, networks = made.stepper.source(0), made.stepper.networks
    prompts = [made.rows.prompt[row] for row in problem.row]
    right, wrong = problem.regression_target.chunk(2)
    noisy, timestep = problem.noisy.chunk(2)[0], problem.timestep.chunk(2)[0]
    with networks.reference() as network:
        for expected, texts in ((right, prompts), (wrong, [without_words(p, 0) for p in prompts])):
            told = {"embeddings": embedded(encoded, texts)}
            torch.testing.assert_close(networks.raw_predict(network, noisy, timestep, told), expected)
    reference, prediction = networks.reference_errors(problem)
    assert (reference[0] == 0).all() and (reference[1] > 0).all()
    torch.testing.assert_close(reference[1], denoising_error(prediction.chunk(2)[0], wrong))
    error, _ = networks.policy_errors(problem)
    parameters = networks.policy.parameters
    preferred, other = (
        torch.autograd.grad(one.sum(), parameters, retain_graph=True, allow_unused=True) for one in error
    )
    assert sum(g.abs().sum() for g in preferred if g is not None) == 0
    assert sum(g.abs().sum() for g in other if g is not None) > 0


@pytest.mark.parametrize("method", ["tpo", "ddspo"])
def test_a_small_step_raises_the_logit_as_its_gradient_says(method, parts):
    made, _ = parts(method=method, beta=500.0)
    problem, networks = made.stepper.source(0), made.stepper.networks
    made.stepper.accumulate(0)
    gradients = [(p, p.grad.clone()) for p in networks.policy.parameters if p.grad is not None]
    square = sum(g.square().sum().item() for _, g in gradients)
    size = 1e-2 / square  # the loss falls by 0.01 to first order, and so, at slope 1/2, the mean logit rises by 0.02
    with torch.no_grad():
        for parameter, gradient in gradients:
            parameter.sub_(size * gradient)
    assert networks.logits(problem).mean().item() == pytest.approx(0.02, rel=0.2)


def test_dropped_words_are_a_share_of_them_in_their_order_chosen_by_address():
    prompt = " ".join(f"w{i}" for i in range(20))
    found = {without_words(prompt, seed) for seed in range(50)}
    assert len(found) > 40 and without_words(prompt, 3) == without_words(prompt, 3)
    for text in found:
        words = text.split()
        assert 6 <= len(words) <= 12 and words == sorted(words, key=lambda word: int(word[1:]))
    assert without_words("cat", 0) == "" and len(without_words("red cat", 0).split()) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "ddspo", "safeguard": 0.9}, "starts where the preferred side has no gradient"),
        ({"method": "ddspo", "losses": {"winner": 1.0}}, "regression targets"),
        ({"method": "tpo", "prompt_dropout": 0.1}, "takes the right one away"),
        ({"method": "tpo", "noise": "inversion"}, "makes its own noisy images"),
        ({"method": "tpo", "target": "dedpo", "judge": "j"}, "takes no votes of judges"),
        ({"other_prompt": "words"}, "add one of them"),
    ],
)
def test_what_cannot_go_together_is_refused(changes, reason):
    base = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o"}
    assert reason in refusal(lambda: load_config(base | changes))
