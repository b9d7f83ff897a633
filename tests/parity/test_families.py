"""The other links and the whole-loss families against numbers computed by executing published implementations."""

import math

import pytest
import torch
from parity.cases import arrays, cases, check, close, dpo_logit, errors, get, leaf, predictions

from palate.objectives.dspo import SWITCH, dspo_sd15, dspo_sdxl
from palate.objectives.kto import balanced_offset, kto, kto_logit, mean_offset
from palate.objectives.links import alpha_dpo, dmpo, moving_alpha, sigmoid, smoothed
from palate.objectives.logit import logit
from palate.objectives.mapo import mapo, odds_logit, winner_error

PRECISIONS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
ERRORS = ("err_w", "err_l", "ref_err_w", "ref_err_l")


def loaded(case, dtype):
    prediction, target, reference = predictions(case, dtype)
    return leaf(prediction), target, reference


def per_sample(case, actual, name, dtype, rtol=1e-9, slack="logit_abs_max"):
    """Arrays of a case, one number per pair or image: in float32 as far off as ten times the published rounding."""
    single = dtype == torch.float32
    atol = 10 * case["f32_minus_f64"][slack] + 1e-6 if single else 1e-12
    close(actual, get(case, name), rtol=1e-6 if single else rtol, atol=atol)


def published_errors(case, prediction, target, reference):
    """The stored errors are single precision numbers, and the only reading of a case's inputs that is no loss."""
    actual = errors(prediction, target) + (errors(reference, target) if "ref_err_w" in case["keys"] else ())
    for name, values in zip(ERRORS, actual, strict=False):
        close(values, get(case, name), rtol=1e-6)


def hard(z):
    return torch.ones_like(z)


def hard_logit(case, prediction, target, reference, dtype):
    z = dpo_logit(case, prediction, target, reference, case["hyper"]["beta"], case["hyper"].get("mu"))
    per_sample(case, z, "logit_f64", dtype)
    published_errors(case, prediction, target, reference)
    return z


def check_loss(case, loss_of, dtype):
    """`check`, and for a published float32 gradient that is not a number: finite, and close to the float64 one."""
    inputs = loaded(case, dtype)
    loss = loss_of(*inputs)
    if dtype == torch.float64 or "grad_nonfinite_f32_entries" not in case["f32_minus_f64"]:
        return check(case, loss, inputs[0], inputs[1], dtype)
    exact = loaded(case, torch.float64)
    expected = torch.cat(torch.autograd.grad(loss_of(*exact, torch.float64), exact[0]))
    assert get(case, "grad", dtype).isnan().any()
    close(loss, get(case, "loss_f64"), rtol=1e-6, atol=10 * case["f32_minus_f64"]["loss_abs"])
    slack = 10 * case["f32_minus_f64"]["grad_abs_max"]
    close(torch.cat(torch.autograd.grad(loss, inputs[0])), expected, rtol=1e-5, atol=slack + 1e-9)


# DMPO, and the exo_pair loss of language models ----------------------------------------------------------------------


@PRECISIONS
@pytest.mark.parametrize("case", cases("sdpo_dmpo"))
def test_dmpo(case, dtype):
    alpha = max(case["hyper"]["alpha"], 1e-6)  # the published clamp, without which alpha = 0 has no finite loss

    def loss(*inputs):
        z = hard_logit(case, *inputs, dtype)
        close(torch.sigmoid(z), get(case, "p"), rtol=1e-5, atol=10 * case["f32_minus_f64"]["logit_abs_max"] + 1e-6)
        return dmpo(z, hard(z), alpha).mean()

    check_loss(case, loss, dtype)


@PRECISIONS
@pytest.mark.parametrize("case", cases("trl", "5", "7"))
def test_dmpo_is_exo_pair_with_label_smoothing(case, dtype):
    beta, alpha = case["hyper"]["beta"], case["hyper"]["label_smoothing"] or 1e-3  # 1e-3 stands for 0 there
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    chosen, rejected, ref_chosen, ref_rejected = (get(case, name, dtype).requires_grad_() for name in names)
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    loss = dmpo(z, hard(z), alpha)
    if dtype == torch.float64:
        rounded = rounded_logarithms(z.detach(), alpha) if case["formula"] == "trl.5" else 0
        close(loss.detach() + rounded, get(case, "per_sample_f64"))
    gradients = dict(zip(names, torch.autograd.grad(loss.mean(), (chosen, rejected)), strict=False))
    slack = case["f32_minus_f64"] if dtype == torch.float32 else {"loss_abs": 0, "grad_abs_max": 0}
    close(loss.mean(), get(case, "loss_f64"), rtol=1e-6, atol=10 * slack["loss_abs"])
    for name, side in (("chosen_logps", "grad_chosen_f64"), ("rejected_logps", "grad_rejected_f64")):
        close(gradients[name], get(case, side), rtol=1e-6, atol=10 * slack["grad_abs_max"] + 1e-12)


def rounded_logarithms(z, alpha):
    """What the later published version gains by taking log(1 - alpha) and log(alpha) in float32."""
    single = torch.tensor(alpha)
    liked, other = math.log1p(-alpha) - torch.log1p(-single).double(), math.log(alpha) - single.log().double()
    return torch.sigmoid(z) * liked + torch.sigmoid(-z) * other


# DSPO ----------------------------------------------------------------------------------------------------------------


def dspo(case, prediction, target, reference, dtype, swapped=False):
    z = hard_logit(case, prediction, target, reference, dtype)
    residuals = tuple(p - t for p, t in zip(prediction, target, strict=True))
    shifts = tuple(p - r for p, r in zip(prediction, reference, strict=True))
    label = hard(z)
    if swapped:
        residuals, shifts, z, label = residuals[::-1], shifts[::-1], -z, 0 * label
    if not case["hyper"]["sdxl"]:
        return dspo_sd15(residuals, shifts, z, label, case["hyper"]["beta"]).mean()
    square = shifts[1 if swapped else 0].square().mean()
    close(square, get(case, "winner_shift_sq"), rtol=1e-5)
    assert ("s^2 only" in case["branch"]["score_term"]) == (square.item() < SWITCH)
    return dspo_sdxl(shifts, z, label).mean()


@PRECISIONS
@pytest.mark.parametrize("case", cases("sdpo_dspo"))
def test_dspo_in_both_published_forms(case, dtype):
    check_loss(case, lambda *inputs: dspo(case, *inputs[:3], dtype), dtype)


@pytest.mark.parametrize("case", cases("sdpo_dspo"))
def test_dspo_of_a_pair_stored_the_other_way_round(case):
    check_loss(case, lambda *inputs: dspo(case, *inputs[:3], torch.float64, swapped=True), torch.float64)


# alpha-DPO -----------------------------------------------------------------------------------------------------------


@PRECISIONS
@pytest.mark.parametrize("case", cases("alpha_dpo"))
def test_alpha_dpo_with_fixed_and_moving_alpha(case, dtype):
    hyper = case["hyper"]

    def loss(prediction, target, reference, used=dtype):
        z = dpo_logit(case, prediction, target, reference, hyper["beta"])
        per_sample(case, z, "logit_f64", used)
        published_errors(case, prediction, target, reference)
        if "fixed" in case["branch"]["alpha"]:
            alpha = hyper["alpha_dpo"]
            assert alpha == float(get(case, "alpha_f64"))
            return alpha_dpo(z, hard(z), alpha).mean()
        if "other_p" in case["keys"]:  # the mean runs over all devices: what they give stands beside what is here
            gathered = torch.cat([z.detach(), get(case, "other_p", used).logit()])
            alpha = moving_alpha(gathered, hard(gathered))
            per_sample(case, alpha, "alpha_f64", used)
            return alpha_dpo(z, hard(z), alpha).mean()
        per_sample(case, moving_alpha(z, hard(z)), "alpha_f64", used)
        return alpha_dpo(z, hard(z)).mean()

    check_loss(case, loss, dtype)


# MaPO and SUDO -------------------------------------------------------------------------------------------------------


@PRECISIONS
@pytest.mark.parametrize("case", cases("mapo"))
def test_mapo(case, dtype):
    hyper = case["hyper"]

    def loss(prediction, target, reference):
        error_w, error_l = errors(prediction, target)
        published_errors(case, prediction, target, reference)
        label = hard(error_w)
        odds = hyper["beta"] * mapo(error_w, error_l, label, hyper["snr_value"], hyper["T"])
        per_sample(case, -odds, "ratio_part_f64", dtype)
        swapped = mapo(error_l, error_w, 0 * label, hyper["snr_value"], hyper["T"])
        close(hyper["beta"] * swapped, odds.detach(), atol=1e-6)
        return (winner_error(error_w, error_l, label) + odds).mean()

    check_loss(case, loss, dtype)


@pytest.mark.parametrize("case", cases("mapo"))
def test_our_odds_round_far_less_than_the_published_subtraction(case):
    s, t = case["hyper"]["snr_value"], case["hyper"]["T"]
    exact = odds_logit(*errors(*predictions(case, torch.float64)[:2]), s, t)
    error_w, error_l = errors(*predictions(case, torch.float32)[:2])
    published = t * (s * error_w / (torch.exp(s * error_w) - 1) - s * error_l / (torch.exp(s * error_l) - 1))
    off, published_off = ((z - exact).abs().max().item() for z in (odds_logit(error_w, error_l, s, t), published))
    assert off < 0.25 * published_off


@PRECISIONS
@pytest.mark.parametrize("case", cases("sudo"))
def test_sudo_is_half_the_link_and_half_the_winners_error(case, dtype):
    hyper = case["hyper"]

    def loss(*inputs):
        z = hard_logit(case, *inputs, dtype)
        link = sigmoid(z, hard(z)).mean()
        close(link, get(case, "dpo_part"), rtol=1e-5, atol=10 * case["f32_minus_f64"]["loss_abs"] + 1e-6)
        return hyper["w_dpo"] * link + hyper["w_sft"] * winner_error(*errors(*inputs[:2]), hard(z)).mean()

    check_loss(case, loss, dtype)


# SmPO ----------------------------------------------------------------------------------------------------------------


def smoothed_label(case, dtype):
    """The probability of the winner from the scores of both images, as published: a softmax of normalised scores."""
    low, high = case["hyper"]["score_min"], case["hyper"]["score_max"]
    label = torch.softmax((get(case, "scores", dtype) - low) / (high - low), dim=-1)[:, 0]
    close(label, get(case, "prob_f64"), rtol=1e-9 if dtype == torch.float64 else 1e-5)
    return label


@PRECISIONS
@pytest.mark.parametrize("case", cases("smpo"))
def test_smpo_with_a_label_per_pair_and_as_published_with_the_first_pairs(case, dtype):
    hyper, label = case["hyper"], smoothed_label(case, dtype)
    used = label[:1].expand_as(label) if case["formula"] == "smpo.1" else label

    def loss(prediction, target, reference):
        z = logit(*errors(prediction, target), *errors(reference, target), hyper["beta"])
        per_sample(case, hyper["gamma"] * (2 * used - 1) * z, "logit_f64", dtype)
        published_errors(case, prediction, target, reference)
        if len(z) > 1 and case["formula"] == "smpo.1":
            ours = smoothed(z, label, hyper["gamma"]).mean()
            assert (ours - get(case, "loss_f64")).abs() > 1e-3  # each pair has its own label, deliberately
        return smoothed(z, used, hyper["gamma"]).mean()

    check_loss(case, loss, dtype)


# Diffusion-KTO -------------------------------------------------------------------------------------------------------


def published_offset(case, gain, target, label, dtype):
    hyper = case["hyper"]
    if hyper["offset"] == "sigmoid":
        return balanced_offset(gain, label)
    if hyper["offset"] == "original":  # predictions under mismatched prompts stand in another bundle
        bundle, name = arrays(case["inputs"]["file"]), hyper["rolled_predictions_bundle"]
        halves = (torch.from_numpy(bundle[f"{name}.{n}"]).to(dtype).chunk(2) for n in ("model_pred", "ref_pred"))
        rolled, ref_rolled = (torch.cat(errors(half, target)) for half in halves)
        return (ref_rolled - rolled).mean()
    if "other_kl" in case["keys"]:
        return mean_offset(torch.cat([gain.mean()[None], get(case, "other_kl", dtype)]))
    return mean_offset(gain)


@PRECISIONS
@pytest.mark.parametrize("case", cases("kto"))
def test_diffusion_kto(case, dtype):
    hyper = case["hyper"]
    beta, label = 2 * hyper["beta"], get(case, "labels", dtype)
    single_constant = 1e-6 if hyper["offset"] == "sigmoid" else 1e-9

    def loss(prediction, target, reference):
        error, ref_error = torch.cat(errors(prediction, target)), torch.cat(errors(reference, target))
        close(error, get(case, "err"), rtol=1e-6)
        close(ref_error, get(case, "ref_err"), rtol=1e-6)
        gain = ref_error - error
        offset = published_offset(case, gain, target, label, dtype)
        slack = 1e-12 if dtype == torch.float64 else 10 * case["f32_minus_f64"]["logit_abs_max"] / hyper["beta"] + 1e-9
        close(offset, get(case, "kl_f64"), rtol=single_constant, atol=slack)
        v = (2 * label - 1) * kto_logit(gain, beta, offset)
        per_sample(case, v, "logit_f64", dtype, rtol=single_constant)
        weights = (float(torch.tensor(hyper[name])) for name in ("lambda_d", "lambda_u"))  # float32 there
        each = kto(gain, label, beta, offset, hyper["utility"].replace("_", "-"), *weights)
        per_sample(case, each, "per_sample_f64", dtype, rtol=single_constant)
        return each.mean()

    check_loss(case, loss, dtype)
