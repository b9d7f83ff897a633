"""Prediction-powered means against numbers computed by executing published code."""

import numpy as np
import pytest
from parity.cases import arrays, cases, get
from parity.powered_mean import classical_mean, powered_mean

from palate.data.labels import Labels
from palate.labels.targets import dedpo


def is_powered(case):
    return case["hyper"].get("method") != "classical"


def weights_of(case):
    return {key: get(case, name).numpy() for key, name in WEIGHTS.items() if name in case["keys"]}


WEIGHTS = {"weights": "w", "weights_unlabelled": "w_unlabeled"}


def powered(case, **changes):
    hyper = case["hyper"]
    answers = (get(case, name).numpy() for name in ("Y", "Yhat", "Yhat_unlabeled"))
    options = weights_of(case) | {
        "power": "tuned" if hyper["lam"] is None else hyper["lam"],
        "per_coordinate": hyper["lam_optim_mode"] == "element",
        # the published code forgets the alternative of a tuned lambda
        "alternative": "two-sided" if hyper["lam"] is None else hyper["alternative"],
        "confidence": 1 - hyper["alpha"],
    }
    return powered_mean(*answers, **(options | changes))


def meets(actual, case, name):
    np.testing.assert_allclose(np.atleast_1d(actual), np.atleast_1d(get(case, name).numpy()), rtol=1e-9, atol=1e-12)


def is_defined(case):
    return is_powered(case) and np.isfinite(arrays(case["file"])[f"{case['id']}.lam"]).all()


@pytest.mark.parametrize("case", cases("ppi", keep=is_defined))
def test_the_prediction_powered_mean_its_power_and_its_interval(case):
    made = powered(case)
    meets(made.power, case, "lam")
    meets(made.estimate, case, "point")
    meets(made.low, case, "ci_low")
    meets(made.high, case, "ci_high")
    assert (made.n, made.n_unlabelled) == (case["hyper"]["n"], case["hyper"]["N"])


@pytest.mark.parametrize("case", cases("ppi", keep=lambda case: not is_powered(case)))
def test_the_classical_mean_and_its_interval(case):
    made = classical_mean(
        get(case, "Y").numpy(), **weights_of(case), alternative=case["hyper"]["alternative"], confidence=1 - case["hyper"]["alpha"]
    )  # fmt: skip
    meets(made.low, case, "ci_low")
    meets(made.high, case, "ci_high")


@pytest.mark.parametrize("case", cases("ppi", keep=lambda case: is_powered(case) and not is_defined(case)))
def test_a_constant_judge_is_undefined_there_and_the_human_answers_alone_here(case):
    assert all(get(case, name).isnan().all() for name in ("lam", "point", "ci_low", "ci_high"))
    made, alone = powered(case), classical_mean(get(case, "Y").numpy(), confidence=1 - case["hyper"]["alpha"])
    assert made.power == 0
    assert [made.estimate, made.low, made.high] == pytest.approx([alone.estimate, alone.low, alone.high], rel=1e-12)
    for power in (0.3, 1.0):  # any power would give the same, up to rounding
        other = powered(case, power=power)
        assert [other.estimate, other.low, other.high] == pytest.approx(
            [alone.estimate, alone.low, alone.high], rel=1e-9
        )


def forgets_its_alternative(case):
    return is_powered(case) and case["hyper"]["lam"] is None and case["hyper"]["alternative"] != "two-sided"


@pytest.mark.parametrize("case", cases("ppi", keep=forgets_its_alternative))
def test_a_tuned_power_keeps_the_alternative_that_the_published_code_forgets(case):
    tuned = powered(case, alternative=case["hyper"]["alternative"])
    given = powered(case, alternative=case["hyper"]["alternative"], power=tuned.power)
    assert (tuned.low, tuned.high) == (given.low, given.high)
    assert tuned.high == np.inf and tuned.low > float(get(case, "ci_low"))  # one-sided: nearer to the estimate


def a_mean_over_pairs(case):
    """One coordinate, no weights, a defined lambda, and a power within [0, 1]."""
    plain = is_defined(case) and "w" not in case["keys"] and arrays(case["file"])[f"{case['id']}.Y"].ndim == 1
    return plain and power_of(case) <= 1


def power_of(case):
    """The power at which DeDPO is the prediction-powered estimate: lambda times all pairs over unlabelled ones."""
    n_l, n_u = len(get(case, "Y")), len(get(case, "Yhat_unlabeled"))
    return float(get(case, "lam")) * (n_l + n_u) / n_u


@pytest.mark.parametrize("case", cases("ppi", "1", keep=a_mean_over_pairs))
def test_the_mean_target_is_the_prediction_powered_estimate(case):
    human, judge, unlabelled = (get(case, name).numpy() for name in ("Y", "Yhat", "Yhat_unlabeled"))
    everything = np.concatenate([human, judge, unlabelled])
    low, width = everything.min(), np.ptp(everything)  # the estimate moves with shift and scale: map to [0, 1] and back
    y = np.concatenate([human, np.full(len(unlabelled), np.nan)])
    g = np.concatenate([judge, unlabelled])
    made = dedpo(Labels((y - low) / width, (g - low) / width, np.full(len(g), len(human) / len(g))), power_of(case))
    estimate = low + width * np.mean(made.weight * made.target)
    assert estimate == pytest.approx(float(get(case, "point")), rel=1e-9)
