"""The objectives against numbers computed by executing published implementations, first in float64, then in float32."""

import pytest
import torch
from parity.cases import cases, check, close, dpo_logit, errors, get, leaf, predictions

from palate.objectives.links import hinge, ipo, sigmoid
from palate.objectives.mapo import winner_error
from palate.objectives.safeguard import loser_scale


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", cases("sdpo_dpo", "1", "2"))
def test_diffusion_dpo_with_and_without_the_safeguard(case, dtype):
    prediction, target, reference = predictions(case, dtype)
    prediction = leaf(prediction)
    z = dpo_logit(case, prediction, target, reference, case["hyper"]["beta"], case["hyper"]["mu"])
    slack = 1e-11 if dtype == torch.float64 else 10 * case["f32_minus_f64"].get("logit_abs_max", 0) + 1e-6
    close(z, get(case, "logit_f64"), atol=slack, rtol=1e-9 if dtype == torch.float64 else 1e-6)
    check(case, sigmoid(z, torch.ones_like(z)).mean(), prediction, target, dtype)


@pytest.mark.parametrize("case", cases("sdpo_dpo", "1"))
def test_swapped_pairs_give_the_same_loss(case):
    (winner, loser), (noise_w, noise_l), (ref_w, ref_l) = predictions(case, torch.float64)
    z = dpo_logit(case, (loser, winner), (noise_l, noise_w), (ref_l, ref_w), case["hyper"]["beta"])
    close(sigmoid(z, torch.zeros_like(z)).mean(), get(case, "loss_f64"))


@pytest.mark.parametrize("case", cases("sdpo_lambda"))
def test_published_safeguard(case):
    (prediction_w, prediction_l), (noise_w, noise_l), _ = predictions(case, torch.float64)
    residual_w, residual_l = prediction_w - noise_w, prediction_l - noise_l
    first = torch.ones(len(residual_w), dtype=torch.bool)
    for mu, expected in zip(get(case, "mu").tolist(), get(case, "lam_f64"), strict=True):
        close(loser_scale(residual_w, residual_l, first, mu, "published")[0], expected)
        swapped = loser_scale(residual_l, residual_w, ~first, mu, "published")
        close(swapped[0], expected)
        if "inputs" in case:  # real residuals are far from the additive epsilon: both modes agree closely
            close(loser_scale(residual_w, residual_l, first, mu, "batch")[0], expected, rtol=2e-3)


def published_ipo(z, beta, beta_ipo):
    """(ell - 1/(2*beta_ipo))^2 of the raw margin ell: the link with margin b/(2*beta_ipo), times 4*margin/b^2."""
    b = beta / 2
    margin = b / (2 * beta_ipo)
    return ipo(z, torch.ones_like(z), margin) * 4 * margin / b**2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "case", cases("adaptive_dpo", "18", "19", "20", "21", "diffusers_dpo.1") + cases("diffusers_dpo")
)
def test_links_on_errors(case, dtype):
    hyper = case["hyper"]
    prediction, target, reference = predictions(case, dtype)
    half = hyper.get("script") == "sdxl"  # the only one of these that has the half, as palate has
    prediction, beta = leaf(prediction), hyper["beta"] if half else 2 * hyper["beta"]
    z, kind = dpo_logit(case, prediction, target, reference, beta), hyper["loss_type"]
    loss = link_loss(z, kind, hyper.get("label_smoothing", 0), beta, hyper.get("beta_ipo"))
    check(case, loss.mean(), prediction, target, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", cases("sdpo_dpo", "3"))
def test_supervised_training_on_all_images(case, dtype):
    """The published SFT option averages both halves of the batch: the winner's error at target 1/2."""
    prediction, target, _ = predictions(case, dtype)
    prediction = leaf(prediction)
    error = errors(prediction, target)
    check(case, winner_error(*error, torch.full_like(error[0], 0.5)).mean(), prediction, target, dtype)


def link_loss(z, kind, smoothing, beta, beta_ipo):
    if kind == "hinge":
        return hinge(z, torch.ones_like(z))
    if kind == "ipo":
        return published_ipo(z, beta, beta_ipo)
    target = (1 - smoothing) / (1 - 2 * smoothing) if kind == "robust" else 1 - smoothing
    return sigmoid(z, torch.full_like(z, target))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", cases("trl", "1", "2", "3", "4", "6", "8"))
def test_links_on_log_ratios(case, dtype):
    beta, kind = case["hyper"]["beta"], case["hyper"]["loss_type"]
    ignored = case["formula"] == "trl.1"  # later versions read label smoothing and do not use it
    smoothing = 0 if ignored else case["hyper"]["label_smoothing"]
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    chosen, rejected, ref_chosen, ref_rejected = (get(case, name, dtype) for name in names)
    chosen.requires_grad_()
    per_token = get(case, "lengths", dtype).chunk(2) if "lengths" in case["keys"] else (1, 1)  # ipo's later form
    z = beta * ((chosen - ref_chosen) / per_token[0] - (rejected - ref_rejected) / per_token[1])
    # (d - 1/(2*beta))^2 with z = beta*d is the link with margin 1/2, times 4*margin/beta^2; b = beta here.
    loss = link_loss(z, kind, smoothing, 2 * beta, beta)
    loss.mean().backward()
    if dtype == torch.float64:
        close(loss, get(case, "per_sample_f64"))
        close(chosen.grad, get(case, "grad_chosen_f64"))
    else:
        slack = case["f32_minus_f64"]
        close(loss.mean(), get(case, "loss_f64"), rtol=1e-6, atol=10 * slack["loss_abs"])
        close(chosen.grad, get(case, "grad_chosen_f64"), rtol=1e-6, atol=10 * slack["grad_abs_max"])
