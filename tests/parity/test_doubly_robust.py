"""DeDPO and its ancestor, doubly robust self-training, against numbers computed by executing published code."""

import numpy as np
import pytest
import torch
from parity.cases import cases, check, close, dpo_logit, get, leaf, predictions

from palate.data.labels import Labels
from palate.labels.targets import conservative, dedpo, judge_only, mix, ramp, ramped
from palate.objectives.links import sigmoid


def in_batch(human, pseudo, labelled, alpha):
    """The published target of every item: one correction for the whole batch, by the batch's own labelled share.

    human, pseudo: [N] or [N, classes]; labelled: [N] bool. A batch without a label has the pseudo labels alone.
    """
    if not labelled.any():
        return pseudo
    shown = np.expand_dims(labelled, tuple(range(1, pseudo.ndim)))
    debiased = pseudo + np.where(shown, (human - pseudo) / labelled.mean(), 0)
    return ramped(debiased, pseudo, alpha)


def mixed(human, pseudo, labelled):
    return np.where(np.expand_dims(labelled, tuple(range(1, pseudo.ndim))), human, pseudo)


def target_of_mode(case, human, pseudo, labelled):
    hyper = case["hyper"]
    if hyper["mode"] == 0:
        return pseudo
    if hyper["mode"] == 1:
        return mixed(human, pseudo, labelled)
    step, steps = hyper["epoch"] * hyper["n_batches"] + hyper["batch_idx"], hyper["epochs"] * hyper["n_batches"]
    assert ramp(step, steps) == pytest.approx(min(hyper["ramp"], 1), rel=1e-12)
    return in_batch(human, pseudo, labelled, hyper["ramp"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", cases("doubly_robust"))
def test_doubly_robust_self_training_of_several_classes(case, dtype):
    logits = get(case, "logits", dtype).requires_grad_()
    classes, smoothing = logits.shape[1], case["hyper"]["smoothing"]
    pseudo, human = (get(case, name, torch.long).numpy() for name in ("pseudo", "human"))
    one_hot = np.eye(classes)
    target = target_of_mode(case, one_hot[human.clip(0)], one_hot[pseudo], human >= 0)
    np.testing.assert_allclose(target.sum(axis=1), 1, rtol=1e-12)  # of every item, however far it leaves [0, 1]
    smooth = torch.from_numpy((1 - smoothing) * target + smoothing / classes).to(dtype)
    loss = -(smooth * logits.log_softmax(dim=1)).sum(dim=1).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    if dtype == torch.float64:
        close(loss, get(case, "loss_f64"))
        close(gradient, get(case, "grad_f64"))
    else:
        slack = case["f32_minus_f64"]
        close(loss, get(case, "loss_f64"), rtol=1e-6, atol=10 * slack["loss_abs"])
        close(gradient, get(case, "grad"), rtol=1e-6, atol=10 * slack["grad_abs_max"])


def labels_of(case):
    human = get(case, "human").numpy()
    human = np.where(human < 0, np.nan, human)
    judge = get(case, "annotator" if "annotator" in case["keys"] else "pseudo").numpy()
    return Labels(human, judge, np.full(len(human), np.mean(~np.isnan(human))))


def without_a_ramp(case):
    """A ramp makes a biased mix, which `dedpo` does not know."""
    return case["hyper"].get("mode") != 2 or case["hyper"]["ramp"] == 1


def targets_of(case):
    """What training makes of the labels."""
    labels, hyper = labels_of(case), case["hyper"]
    if hyper.get("mode") == 1:
        return mix(labels)
    return dedpo(labels, hyper.get("kappa", 1.0)) if labels.labelled.any() else judge_only(labels)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", cases("doubly_robust_pref", keep=without_a_ramp))
def test_dedpo_and_its_ancestor(case, dtype):
    prediction, target, reference = predictions(case, dtype)
    prediction = leaf(prediction)
    z, made = dpo_logit(case, prediction, target, reference, case["hyper"]["beta"]), targets_of(case)
    if "target_f64" in case["keys"] and case["hyper"]["kappa"] == 1:
        close(torch.from_numpy(made.target), get(case, "target_f64"))
    smooth = conservative(made.target, case["hyper"].get("smoothing", 0) / 2)  # smoothing over two classes
    pull, weight = (torch.from_numpy(array).to(dtype) for array in (smooth, made.weight))
    check(case, (weight * sigmoid(z, pull)).mean(), prediction, target, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", cases("doubly_robust_pref", keep=lambda case: "mode" in case["hyper"]))
def test_doubly_robust_self_training_on_preferences(case, dtype):
    prediction, target, reference = predictions(case, dtype)
    prediction, labels = leaf(prediction), labels_of(case)
    z = dpo_logit(case, prediction, target, reference, case["hyper"]["beta"])
    made = target_of_mode(case, labels.human, labels.judge, labels.labelled)
    pull = torch.from_numpy(conservative(made, case["hyper"]["smoothing"] / 2)).to(dtype)
    check(case, sigmoid(z, pull).mean(), prediction, target, dtype)
