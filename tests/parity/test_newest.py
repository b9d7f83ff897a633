"""Links, the worst case and DiffusionNFT against numbers from newer published implementations.

Cases marked "derived" in the index have no published code: there the documented formula was evaluated.
"""

import pytest
import torch
from parity.cases import cases, check, close, dpo_logit, errors, get, leaf, predictions

from palate.objectives.links_giving_up import alpha_dpo, gce, mixture
from palate.objectives.links_pulling import hinge, ipo, linear, poly, sigmoid
from palate.objectives.nft import drift, nft
from palate.objectives.timestep_weights import linear_weight
from palate.objectives.worst_case import worst_case, worst_target

PRECISIONS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
SWAPPED = pytest.mark.parametrize("swap", [False, True], ids=["", "swapped"])


def loaded(case, dtype):
    prediction, target, reference = predictions(case, dtype)
    return leaf(prediction), target, reference


def labelled_logit(inputs, beta, swap, labels):
    """The logit and the target of labels in {-1, 0, 1}, seen from either order of the images."""
    order = slice(None, None, -1) if swap else slice(None)
    z = dpo_logit(None, *(halves[order] for halves in inputs), beta)
    p = (1 + labels.to(z.dtype)) / 2
    return z, 1 - p if swap else p


def meet(case, name, actual):
    """As close as float64 allows, or within ten times the float32 rounding of the logit that it is made of."""
    single = actual.dtype == torch.float32
    rounding = 10 * case["f32_minus_f64"].get("logit_abs_max", 0)
    close(actual, get(case, f"{name}_f64"), rtol=1e-5 if single else 1e-9, atol=rounding + 1e-6 if single else 1e-12)


@PRECISIONS
@SWAPPED
@pytest.mark.parametrize("case", cases("linear_dpo"))
def test_linear_dpo_has_the_released_weight_and_its_gradient_is_the_released_one(case, swap, dtype):
    inputs, beta, eta = loaded(case, dtype), case["hyper"]["beta"], case["hyper"]["eta"]
    z, p = labelled_logit(inputs, beta, swap, torch.ones(1))
    z_w = (z if not swap else -z).detach().requires_grad_()
    (slope,) = torch.autograd.grad(linear(z_w, torch.ones_like(z_w), eta).sum(), z_w)
    meet(case, "weight", -slope)
    # the released value is weight * (e_w - e_l), which is not centred on the reference: its gradient is 2/beta times ours
    loss = 2 / beta * linear(z, p.expand_as(z), eta).mean()
    error_w, error_l = (error.detach() for error in errors(*inputs[:2]))
    shift = (-slope * (error_w - error_l)).mean() - loss.detach()
    check(case, loss + shift, inputs[0], inputs[1], dtype)


SEMI = {
    "sigmoid": lambda z, p, hyper, v: sigmoid(z, p),
    "hinge": lambda z, p, hyper, v: hinge(z, p),
    "ipo": lambda z, p, hyper, v: ipo(z, p, 0.5) * 2 / hyper["beta"] ** 2,
    "gce": lambda z, p, hyper, v: (1 - v) * sigmoid(z, p) + v * gce(z, p, hyper["gce_q"]),
    "sce": lambda z, p, hyper, v: poly(z, p, -hyper["sce_beta"] * hyper["log_zero"]),
}


@PRECISIONS
@SWAPPED
@pytest.mark.parametrize("case", cases("semi_dpo"))
def test_the_links_of_semi_dpo_on_labels_of_both_signs_and_none(case, swap, dtype):
    inputs, hyper = loaded(case, dtype), case["hyper"]
    pairs = len(inputs[1][0])
    labels = get(case, "labels", dtype) if "labels" in case["keys"] else torch.ones(pairs, dtype=dtype)
    v = get(case, "robust_weight", dtype) if "robust_weight" in case["keys"] else torch.ones(pairs, dtype=dtype)
    z, p = labelled_logit(inputs, 2 * hyper["beta"], swap, labels)
    there = (labels != 0).to(dtype)
    loss = (there * SEMI[hyper["loss_type"]](z, p, hyper, v)).sum() / there.sum().clamp_min(1)
    check(case, loss, inputs[0], inputs[1], dtype)


@PRECISIONS
@SWAPPED
@pytest.mark.parametrize("case", cases("alpha_order") + cases("poly_dpo") + cases("re_po"))
def test_links_with_one_parameter(case, swap, dtype):
    inputs, hyper = loaded(case, dtype), case["hyper"]
    z, p = labelled_logit(inputs, hyper["beta"], swap, torch.ones(len(inputs[1][0])))
    link, parameter = {
        "alpha_order": (alpha_dpo, hyper.get("alpha_dpo")),
        "poly_dpo": (poly, hyper.get("alpha")),
        "re_po": (mixture, hyper.get("eta")),
    }[case["family"]]
    loss = link(z, p, parameter)
    if case["family"] == "re_po":  # the released value weighs both sides by the posterior: another one, same gradient
        z_w = z if not swap else -z
        posterior = torch.sigmoid(z_w + torch.tensor(parameter, dtype=dtype).logit()).detach()
        meet(case, "posterior", posterior)
        released = sigmoid(z_w, posterior)
        meet(case, "per_pair", released)
        check(case, loss.mean() + (released.mean() - loss.mean()).detach(), inputs[0], inputs[1], dtype)
        return
    if "per_pair" in case["keys"]:
        meet(case, "per_pair", loss)
    check(case, loss.mean(), inputs[0], inputs[1], dtype)


@PRECISIONS
@SWAPPED
@pytest.mark.parametrize("case", cases("dpo_pro"))
def test_the_worst_label_within_a_radius(case, swap, dtype):
    inputs, hyper = loaded(case, dtype), case["hyper"]
    z, _ = labelled_logit(inputs, hyper["beta"], swap, torch.ones(len(inputs[1][0])))
    one, p = torch.ones_like(z), torch.full_like(z, 1 - hyper["q"] if swap else hyper["q"])
    worst = worst_target(sigmoid(z, one), sigmoid(z, 0 * one), p, hyper["rho"])
    meet(case, "worst", 1 - worst if swap else worst)
    loss = worst_case(sigmoid, hyper["rho"])(z, p)
    meet(case, "per_pair", loss)
    check(case, loss.mean(), inputs[0], inputs[1], dtype)


@PRECISIONS
@pytest.mark.parametrize("case", cases("ddspo"))
def test_dpo_with_weights_that_grow_with_the_timestep(case, dtype):
    inputs, hyper = loaded(case, dtype), case["hyper"]
    z = dpo_logit(None, *inputs, hyper["beta"])
    weight = torch.ones_like(z)
    if hyper["loss_weighting"] == "linear":
        weight = linear_weight(get(case, "timesteps", dtype), hyper["num_train_timesteps"])
    check(case, (weight * sigmoid(z, torch.ones_like(z))).mean(), inputs[0], inputs[1], dtype)


@PRECISIONS
@pytest.mark.parametrize("case", cases("realalign"))
def test_the_margin_loss_of_realalign_is_a_hinge(case, dtype):
    inputs, margin = loaded(case, dtype), case["hyper"]["margin"]
    z = dpo_logit(None, *inputs, 2 / margin)
    check(case, margin * hinge(z, torch.ones_like(z)).mean(), inputs[0], inputs[1], dtype)


# DiffusionNFT --------------------------------------------------------------------------------------------------------

MODES = {
    "all": lambda a: a,
    "positive_only": lambda a: a.clamp_min(0),
    "negative_only": lambda a: a.clamp_max(0),
    "one_only": lambda a: (a > 0).to(a.dtype),
    "binary": torch.sign,
}


@PRECISIONS
@pytest.mark.parametrize("case", cases("nft", "1"))
def test_diffusion_nft(case, dtype):
    hyper, most = case["hyper"], case["hyper"]["adv_clip_max"]
    names = ("x0", "noise", "prediction", "old_prediction", "ref_prediction", "timestep", "advantage")
    x0, noise, prediction, old, reference, timestep, advantage = (get(case, name, dtype) for name in names)
    prediction.requires_grad_()
    r = (MODES[hyper["adv_mode"]](advantage.clamp(-most, most)) / (2 * most) + 0.5).clamp(0, 1)
    meet(case, "r", r)
    target, scale, b = noise - x0, timestep / 1000, hyper["beta"]
    one = torch.ones_like(r)
    sides = [b * nft(prediction - target, old - target, scale, side, b) for side in (one, 0 * one)]
    meet(case, "positive_loss", sides[0])
    meet(case, "negative_loss", sides[1])
    meet(case, "kl", drift(prediction - reference).mean())
    loss = most * nft(prediction - target, old - target, scale, r, b).mean()
    loss = loss + hyper["kl"] * drift(prediction - reference).mean()
    halves = (prediction,), (target,)
    check(case, loss, *halves, dtype)
