"""Adaptive-DPO with every published switch, against numbers computed by executing its authors' code."""

import pytest
import torch
from parity.cases import cases, check, close, dpo_logit, get, leaf, predictions

from palate.objectives.adaptive import (
    adaptive_margin,
    adaptive_weight,
    flipped_votes,
    ipo_margin,
    label_side,
    metric_after_flips,
    minority_metric,
    minority_parts,
    relative_metric,
    winner_margin,
)
from palate.objectives.links import ipo, sigmoid

CHANGES = {None: "keep", "constant": "constant", "inverse": "inverse"}


def weighs(case):
    return case["hyper"]["reweight"]


def meet(case, name, actual):
    """As close as float64 allows, or within ten times the published code's own float32 rounding."""
    expected = get(case, f"{name}_f64")
    if actual.dtype == torch.float64:
        return close(actual, expected, rtol=1e-9, atol=1e-13)
    rounding = (get(case, name) - expected).abs().max().item() if name in case["keys"] else 0
    close(actual, expected, rtol=1e-5, atol=10 * rounding + 1e-7)


def metric_of(case, margins):
    """The metric before any flip, as the switches of the case have it."""
    hyper = case["hyper"]
    if "step" in hyper and hyper["step"] < hyper["warmup_steps"]:
        return torch.zeros_like(margins[0])
    doubt, spread = minority_parts(margins, hyper["rho"], hyper.get("normalise", False))
    if hyper["use_ema"]:
        meet(case, "spread", spread)
    assert torch.equal(minority_metric(margins, hyper["rho"], hyper.get("normalise", False)), doubt * spread)
    by = "mean_spread" if hyper["divide_u_by_mean_spread"] else "sum" if hyper["divide_u_by_sum"] else None
    return relative_metric(doubt * spread, spread, by) if by else doubt * spread


def flips_of(case, u):
    """(which votes are flipped, the metric after it)."""
    hyper = case["hyper"]
    if not hyper.get("flip"):
        return torch.zeros_like(u, dtype=torch.bool), u
    flipped = flipped_votes(u, hyper["flip_ratio"], hyper["flip_threshold"])
    assert flipped.sum() == case["branch"]["flipped"]
    return flipped, metric_after_flips(u, flipped, CHANGES[hyper["change_flip_weight"]], hyper["flip_constant"])


def loss_of(case, z, target, weight, gamma, beta):
    hyper, side = case["hyper"], label_side(target)
    if hyper["loss_type"] == "sigmoid":
        return (weight * sigmoid(z - side * gamma, target)).mean()
    b = beta / 2  # (ell - 1/(2*beta_ipo))^2 is the link with margin b/(2*beta_ipo), times 4*margin/b^2
    margin = b / (2 * hyper["beta_ipo"])
    return (weight * ipo(z - side * ipo_margin(gamma), target, margin)).mean() * 4 * margin / b**2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("swap", [False, True], ids=["", "swapped"])
@pytest.mark.parametrize("case", cases("adaptive_dpo", keep=weighs))
def test_adaptive_dpo(case, swap, dtype):
    hyper = case["hyper"]
    prediction, target, reference = predictions(case, dtype)
    prediction, beta = leaf(prediction), 2 * hyper["beta"]
    order = slice(None, None, -1) if swap else slice(None)  # swapped: image 0 is the loser, and the target 0
    z = dpo_logit(case, prediction[order], target[order], reference[order], beta)
    p = torch.full_like(z, 0.0 if swap else 1.0)
    margin = winner_margin(z, p, beta)
    meet(case, "margin", margin)
    others = [get(case, name + "_f64" * (dtype == torch.float64), dtype) for name in ("m1", "m2") if hyper["use_ema"]]
    flipped, u = flips_of(case, metric_of(case, torch.stack([margin, *others])))
    meet(case, "u", u)
    weight = adaptive_weight(u, hyper["k1"], hyper["c"], hyper["weight_type"].replace("quardratic", "quadratic"))
    meet(case, "W", weight)
    p = torch.where(flipped, 1 - p, p)
    kind = hyper["margin"] or "quadratic"
    gamma = adaptive_margin(winner_margin(z, p, beta), u, beta, "published" if hyper["margin"] else "off", kind)
    if "Gamma_f64" in case["keys"]:
        meet(case, "Gamma", gamma)
    if "margin_after_flip" in case["keys"]:
        close(winner_margin(z, p, beta), get(case, "margin_after_flip"), rtol=1e-5, atol=1e-7)
    check(case, loss_of(case, z, p, weight, gamma, beta), prediction, target, dtype)


@pytest.mark.parametrize("case", cases("adaptive_dpo", "15", "16"))
def test_the_consistent_sign_of_ipo_is_another_loss_with_the_margin_of_the_sigmoid_form(case):
    hyper, beta = case["hyper"], 2 * case["hyper"]["beta"]
    ell, u, weight = (get(case, name) for name in ("margin_f64", "u_f64", "W_f64"))
    gamma = adaptive_margin(ell, u, beta, kind=hyper["margin"])
    b = beta / 2
    by_hand = (weight * (ell - gamma / b - 1 / (2 * hyper["beta_ipo"])).square()).mean()
    margin = b / (2 * hyper["beta_ipo"])
    ours = weight * ipo(b * ell - ipo_margin(gamma, "consistent"), torch.ones_like(ell), margin)
    close(ours.mean() * 4 * margin / b**2, by_hand, rtol=1e-12)
    assert (by_hand - get(case, "loss_f64")).abs() > 1e-9 * by_hand  # the published sign gives another number


def test_every_published_case_is_met_here_or_by_the_links():
    links = cases("adaptive_dpo", "18", "19", "20", "21", "diffusers_dpo.1")  # test_published.py
    assert len(cases("adaptive_dpo")) == len(cases("adaptive_dpo", keep=weighs)) + len(links)
