"""Numbers computed by executing published implementations (data/README.md), and how closely to meet them."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.objectives.logit import denoising_error, logit
from palate.objectives.safeguard import loser_scale, protected_errors

ASKED: set[str] = set()  # ids of the cases that some test takes
FOLDER = Path(__file__).parent / "data"


@cache
def index():
    return json.loads((FOLDER / "index.json").read_text())


@cache
def arrays(name):
    with np.load(FOLDER / name) as file:
        return dict(file)


def cases(family, *formulas, keep=lambda case: True):
    """The cases of a family, or of some of its formulas, as parameters."""
    wanted = {f if "." in f else f"{family}.{f}" for f in formulas}
    chosen = [c for c in index()["cases"] if c["family"] == family and (not wanted or c["formula"] in wanted)]
    chosen = [c for c in chosen if keep(c)]
    assert chosen, f"no cases of {family} {formulas}"
    ASKED.update(case["id"] for case in chosen)
    return [pytest.param(case, id=case["id"]) for case in chosen]


def get(case, name, dtype=torch.float64):
    return torch.from_numpy(np.array(arrays(case["file"])[f"{case['id']}.{name}"])).to(dtype)


def predictions(case, dtype):
    """(prediction, target, reference prediction), each (winners, losers); the prediction is a leaf."""
    if "inputs" not in case:
        names = [get(case, name, dtype) for name in ("model_pred", "target")]
        return (*(tensor.chunk(2) for tensor in names), None)
    bundle = arrays(case["inputs"]["file"])
    tensors = [
        torch.from_numpy(bundle[f"{case['inputs']['bundle']}.{n}"]).to(dtype)
        for n in ("model_pred", "target", "ref_pred")
    ]
    if "policy_pred" in case["keys"]:
        tensors[0] = get(case, "policy_pred", dtype)
    return tuple(tensor.chunk(2) for tensor in tensors)


def leaf(prediction):
    return tuple(half.detach().clone().requires_grad_() for half in prediction)


def errors(prediction, target):
    return tuple(denoising_error(p, t) for p, t in zip(prediction, target, strict=True))


def close(actual, expected, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(actual.detach(), expected.to(actual.dtype), rtol=rtol, atol=atol)


def check(case, loss, prediction, target, dtype):
    """Loss and gradient of a case, in the precision that was used."""
    gradient = torch.cat(torch.autograd.grad(loss, prediction))
    if dtype == torch.float32:
        slack = case["f32_minus_f64"]
        close(loss, get(case, "loss_f64"), rtol=1e-6, atol=10 * slack["loss_abs"] + 1e-9)
        if "grad" in case["keys"]:
            close(gradient, get(case, "grad"), rtol=1e-5, atol=10 * slack["grad_abs_max"] + 1e-9)
        return
    close(loss, get(case, "loss_f64"))
    residual = (torch.cat(prediction) - torch.cat(target)).detach().flatten(1)
    gradient = gradient.flatten(1)
    close(gradient.norm(dim=1), get(case, "grad_norm_f64"), rtol=1e-8)
    projection = (gradient * residual).sum(1) / residual.square().sum(1)
    close(projection, get(case, "grad_proj_f64"), rtol=1e-8)


def dpo_logit(case, prediction, target, reference, beta, mu=None):
    error, ref_error = errors(prediction, target), errors(reference, target)
    if mu is not None:
        first = torch.ones(len(error[0]), dtype=torch.bool)
        lam = loser_scale(prediction[0] - target[0], prediction[1] - target[1], first, mu, "published")
        close(lam[0], get(case, "lam_f64"), rtol=1e-9 if lam.dtype == torch.float64 else 1e-4)
        error = protected_errors(*error, first, lam)
    return logit(*error, *ref_error, beta)
