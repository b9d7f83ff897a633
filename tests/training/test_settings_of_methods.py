"""Settings of methods as keys: that a run's own parts, not functions beside them, do what the key says."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from parity.cases import cases, get
from tiny import make_labelled_dataset
from training.test_methods import configuration
from training.test_train import settings

from palate.backbones import load_backbone
from palate.backbones.trajectories import x0_and_noise
from palate.data.dataset import PreferenceDataset
from palate.errors import PalateError
from palate.labels.rows import Rows
from palate.labels.votes import prepare_rows
from palate.objectives.kto import UTILITY_LOSSES, balanced_offset, mean_offset
from palate.objectives.links_giving_up import alpha_dpo, moving_alpha
from palate.objectives.links_pulling import sigmoid
from palate.objectives.losses import LOSSES, Measured
from palate.objectives.nft import nft
from palate.objectives.timestep_weights import Spread
from palate.objectives.worst_case import worst_case
from palate.run.load import load_config
from palate.training.assemble import Parts, assemble
from palate.training.pair_weights import PairWeights, Views
from palate.training.snapshots import MinorityRecord
from palate.training.sources import _x0_scale

BASE = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "o", "report_to": "none"}


@pytest.fixture(scope="module")
def voted(tmp_path_factory) -> PreferenceDataset:
    dataset = make_labelled_dataset(tmp_path_factory.mktemp("settings") / "data", pairs=12, labelled=12)
    dataset.append_votes(
        {"vote_id": f"s-{i}", "pair_id": f"p{i:03}", "annotator_id": "scorer", "source": "judge", "choice": "0",
         "probability": 0.6, "score_0": float(i), "score_1": None if i == 3 else -2.0 * i}
        for i in range(12)
    )  # fmt: skip
    return dataset


@pytest.fixture
def parts(pipeline_folder, voted, tmp_path):
    def build(method: str, **changes) -> Parts:
        config = load_config(settings(pipeline_folder, voted, tmp_path / method, **configuration(method, **changes)))
        (tmp_path / method).mkdir(exist_ok=True)
        backbone = load_backbone(config.pretrained_model_name_or_path)
        return assemble(config, voted, backbone, prepare_rows(voted, config), Accelerator(), tmp_path / method)

    return build


def rows(count: int, **columns) -> Rows:
    ids = np.array([f"r{i}" for i in range(count)], dtype=object)
    return Rows(ids, [()] * count, [""] * count, np.ones(count), np.ones(count), np.ones(count, bool), {}, **columns)


def of_pairs(config, count: int, spread: Spread | None = None, **columns) -> PairWeights:
    record = MinorityRecord(count) if config.adaptive else None
    return PairWeights(config, rows(count, **columns), None, None, record, 1000, spread)


def problem_of(target, timestep=None):
    count = len(target)
    timestep = torch.full((count,), 500) if timestep is None else timestep
    labelled = torch.ones(count, dtype=torch.bool)
    return SimpleNamespace(row=torch.arange(count), target=target, labelled=labelled, timestep=timestep.repeat(2))


# Adaptive-DPO: every switch of the published code ----------------------------------------------------------------------


def keys_of(case) -> dict:
    hyper = case["hyper"]
    divide = "mean-spread" if hyper["divide_u_by_mean_spread"] else "sum" if hyper["divide_u_by_sum"] else "no"
    made = {
        "adaptive": True, "beta": 2.0 * hyper["beta"], "adaptive_rho": hyper["rho"], "adaptive_k1": hyper["k1"],
        "adaptive_c": hyper["c"], "adaptive_normalise": hyper.get("normalise", False), "adaptive_divide": divide,
        "adaptive_weight": hyper["weight_type"].replace("quardratic", "quadratic"), "link": hyper["loss_type"],
        "adaptive_margin": "published" if hyper["margin"] else "off", "adaptive_margin_form": hyper["margin"] or "quadratic",
        "adaptive_warmup_steps": hyper.get("warmup_steps", 0),
    }  # fmt: skip
    if hyper.get("flip"):
        change = {None: "keep", "constant": "constant", "inverse": "inverse"}[hyper["change_flip_weight"]]
        made |= {"adaptive_flip_ratio": hyper["flip_ratio"], "adaptive_flip_threshold": hyper["flip_threshold"]}
        made |= {"adaptive_flip_metric": change, "adaptive_flip_constant": hyper["flip_constant"]}
    return made


def is_reached(case) -> bool:
    """All but those in which a threshold of 1 turns nothing around, which a run refuses."""
    hyper = case["hyper"]
    return hyper["reweight"] and not (hyper.get("flip") and hyper["flip_threshold"] >= 1)


@pytest.mark.parametrize("swap", [False, True], ids=["", "swapped"])
@pytest.mark.parametrize("case", cases("adaptive_dpo", keep=is_reached))
def test_a_run_reaches_every_published_switch_of_adaptive_dpo(case, swap):
    hyper, side = case["hyper"], -1 if swap else 1
    ell = get(case, "margin_f64", torch.float32)
    config = load_config({**BASE, **keys_of(case), "train_batch_size": max(2, len(ell))})
    if len(ell) < 2:
        pytest.skip("a batch of one pair is refused")
    weights = of_pairs(config, len(ell))
    weights.rows = rows(1000)  # a pass that the step is at the beginning of
    b = config.beta / 2
    others = [get(case, name + "_f64", torch.float32) for name in ("m1", "m2") if hyper["use_ema"]]
    views = Views(None, [torch.stack([-side * m, 0 * m]) for m in others])
    target = torch.full((len(ell),), 0.0 if swap else 1.0)
    measured = SimpleNamespace(logit=side * b * ell, ref_error=torch.zeros(2, len(ell)), beta=config.beta)
    found, margin, weight = weights(hyper.get("step", 0), problem_of(target), measured, views)
    torch.testing.assert_close(weight.double(), get(case, "W_f64"), rtol=2e-5, atol=1e-6)
    turned = found != target
    assert int(turned.sum()) == case.get("branch", {}).get("flipped", 0) * bool(hyper.get("flip"))
    assert set(found.tolist()) <= {0.0, 1.0}
    if "Gamma_f64" in case["keys"]:
        sign = -1 if hyper["loss_type"] == "ipo" else 1
        of_winner = torch.where(turned, -side, side)
        torch.testing.assert_close(margin.double(), sign * of_winner * get(case, "Gamma_f64"), rtol=1e-4, atol=1e-7)


def test_no_vote_is_suspected_in_the_first_steps_of_each_pass():
    config = load_config({**BASE, "adaptive": True, "adaptive_warmup_steps": 1, "train_batch_size": 4, "gradient_accumulation_steps": 2})  # fmt: skip
    weights = of_pairs(config, 16)  # two steps a pass
    ell = torch.tensor([1.0, -2.0, 0.5, -0.1]) * 1e-3
    measured = SimpleNamespace(logit=config.beta / 2 * ell, ref_error=torch.zeros(2, 4), beta=config.beta)
    views = Views(None, [torch.stack([-m, 0 * m]) for m in (ell.flip(0), 2 * ell)])
    suspects = [bool((weights(i, problem_of(torch.ones(4)), measured, views)[2] < 1).any()) for i in range(8)]
    assert suspects == [False, False, True, True, False, False, True, True]


# Weights by timestep -----------------------------------------------------------------------------------------------------


def weight_of(weights, timestep, margin, target=None):
    beta = weights.config.beta
    target = torch.ones(len(timestep)) if target is None else target
    measured = SimpleNamespace(logit=beta / 2 * margin, ref_error=torch.zeros(2, len(timestep)), beta=beta)
    return weights(0, problem_of(target, timestep), measured, Views(None, []))[2]


def test_weights_that_grow_with_the_timestep():
    config = load_config({**BASE, "timestep_weight": "linear", "train_batch_size": 3})
    found = weight_of(of_pairs(config, 3), torch.tensor([0, 333, 999]), torch.zeros(3))
    assert found.tolist() == pytest.approx([0, 1 / 3, 1])


def test_balanced_weights_are_the_inverse_spread_of_each_quarter_with_mean_one():
    config = load_config({**BASE, "timestep_weight": "balanced", "train_batch_size": 4})
    spread = Spread()
    weights, timestep = of_pairs(config, 4, spread), torch.tensor([10, 260, 510, 760])
    margin = torch.tensor([1.0, -2.0, 3.0, 2.0]) * 1e-3
    assert weight_of(weights, timestep, 0 * margin).tolist() == [1.0] * 4  # the start: margins say nothing yet
    assert weight_of(weights, timestep, margin).tolist() == [1.0] * 4  # its own margins count from the next on
    expected = np.array([1, 1 / 2, 1 / 3, 1 / 2]) / np.mean([1, 1 / 2, 1 / 3, 1 / 2])
    found = weight_of(weights, timestep, -margin, torch.tensor([1.0, 0.0, 3.0, -2.0]))  # nobody's vote is asked
    assert found.tolist() == pytest.approx(expected.tolist()) and found.mean().item() == pytest.approx(1)
    again = Spread()
    again.load_state(spread.state())
    assert torch.equal(again.weight(timestep, 1000), spread.weight(timestep, 1000))
    for _ in range(200):
        spread.add(timestep, torch.tensor([1e-6, 1.0, 1.0, 1.0]), 1000)
    most = spread.weight(timestep, 1000)
    assert most.max() / most.min() <= 16 and most.mean().item() == pytest.approx(1)  # 4 times the mean, and a quarter


# Losses of single images -------------------------------------------------------------------------------------------------


def measured(images: int, target, **changes) -> Measured:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    rows_ = len(target)
    error, reference = draw(images, rows_).square(), draw(images, rows_).square()
    columns = {
        "residual": draw(images, rows_, 2, 3, 3), "shift": draw(images, rows_, 2, 3, 3), "x0_scale": draw(images, rows_).abs(),
        "moved": draw(images, rows_, 2, 3, 3),
    }  # fmt: skip
    zero = torch.zeros(rows_, dtype=torch.float64)
    return Measured(error, reference, zero, zero, target, 100.0, error, **(columns | changes))


def test_the_loss_of_single_images_is_the_cross_entropy_of_their_gain():
    target = torch.tensor([1.0, 0.0, 0.3, 1.8], dtype=torch.float64)
    m = measured(1, target)
    u = 50 * (m.ref_error - m.error)[0]
    torch.testing.assert_close(LOSSES["single"](m), sigmoid(u, target))


@pytest.mark.parametrize("offset", ["mean", "balanced"])
def test_the_offset_and_the_factors_of_kto_reach_its_loss(offset):
    target = torch.tensor([1.0, 0.0, 1.0, 0.25], dtype=torch.float64)
    m = measured(1, target, kto_offset=offset, kto_liked=3.0, kto_disliked=0.5)
    gain = (m.ref_error - m.error)[0]
    q = balanced_offset(gain, target) if offset == "balanced" else mean_offset(gain)
    assert abs(balanced_offset(gain, target) - mean_offset(gain)) > 1e-3
    loss = UTILITY_LOSSES["sigmoid"]
    expected = 3 * target * loss(50 * (gain - q), 1) + 0.5 * (1 - target) * loss(50 * (gain - q), -1)
    torch.testing.assert_close(LOSSES["kto"](m), expected)


def test_nft_of_a_pair_is_that_of_its_images_and_does_not_know_their_order():
    target = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    m = measured(2, target, nft_beta=0.5, nft_kl=0.01)
    found = LOSSES["nft"](m)
    old = m.residual - m.shift
    parts = [nft(m.residual[k], old[k], m.x0_scale[k], r, 0.5) for k, r in enumerate((target, 1 - target))]
    torch.testing.assert_close(found, (parts[0] + parts[1]) / 2 + 0.01 * m.moved.square().mean(dim=(0, 2, 3, 4)))
    flipped = {name: getattr(m, name).flip(0) for name in ("residual", "shift", "x0_scale", "moved")}
    torch.testing.assert_close(LOSSES["nft"](measured(2, 1 - target, nft_beta=0.5, nft_kl=0.01, **flipped)), found)


@pytest.mark.parametrize("images", [1, 2])
def test_the_anchor_is_half_of_beta_times_the_mean_square_of_the_change_since_the_start_whatever_the_vote(images):
    target = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    m = measured(images, target)
    found = LOSSES["anchor"](m)
    torch.testing.assert_close(found, 50 * m.moved.square().mean(dim=(0, 2, 3, 4)))
    changed = measured(images, 1 - target, moved=m.moved.flip(0))
    torch.testing.assert_close(LOSSES["anchor"](changed), found)


def test_nft_measures_errors_as_those_of_x_0(parts):
    made = parts("diffusion-nft")
    problem, backbone = made.stepper.source(0), made.stepper.networks.backbone
    generator = torch.Generator().manual_seed(3)
    prediction = torch.randn(problem.noisy.shape, generator=generator)
    schedule, kind = backbone.noise_schedule.alphas_cumprod, backbone.noise_schedule.config.prediction_type
    ours, truth = (
        x0_and_noise(one, problem.noisy, problem.timestep, schedule, kind)[0]
        for one in (prediction, problem.regression_target)
    )
    residual = prediction - problem.regression_target
    torch.testing.assert_close((ours - truth).abs(), problem.x0_scale.view(-1, 1, 1, 1) * residual.abs(), rtol=1e-3, atol=1e-3)  # fmt: skip
    flow = SimpleNamespace(backbone=SimpleNamespace(is_flow=True, num_timesteps=1000))  # x_0 = x_t - sigma*v
    assert _x0_scale(flow, torch.tensor([250.0, 1000.0])).tolist() == [0.25, 1.0]


# Scores as weights, and what reaches the link -----------------------------------------------------------------------------


def test_images_weigh_more_the_further_a_judges_score_is_from_the_median(parts, voted):
    made = parts("threshold-guided", judge="scorer", confidence=5.0, train_batch_size=4)
    score = {(f"p{i:03}", side): (1.0, -2.0)[side] * i for i in range(12) for side in (0, 1) if (i, side) != (3, 1)}
    scores = np.array([score.get(image, np.nan) for (image,) in made.rows.images])
    expected = np.nan_to_num(np.abs(scores - np.nanmedian(scores)) / np.nanstd(scores))
    np.testing.assert_allclose(made.rows.confidence, expected)
    assert made.rows.account["images without a score of the judge, which weigh 1"] == np.isnan(scores).sum() == 1
    problem = made.stepper.source(0)
    readings = made.stepper.accumulate(0)
    torch.testing.assert_close(
        readings.weight, torch.tensor(1 + 5 * expected[problem.row.numpy()], dtype=torch.float32)
    )
    with pytest.raises(PalateError, match="left no scores"):
        parts("threshold-guided", judge="bright", confidence=5.0)


def test_the_radius_and_the_factor_of_the_moving_alpha_reach_the_link(parts):
    z, p = torch.tensor([-1.0, 0.5, 2.0, 1.0]), torch.tensor([0.3, 0.7, 0.9, 0.6])
    found = parts("dpo-pro", train_batch_size=4).stepper.link(z, p)
    torch.testing.assert_close(found, worst_case(sigmoid, 0.1)(z, p))
    assert not torch.isclose(found, sigmoid(z, p)).any()
    found = parts("alpha-dpo", alpha_factor=2.0, train_batch_size=4).stepper.link(z, p)
    torch.testing.assert_close(found, alpha_dpo(z, p, float(moving_alpha(z, p, 2.0))))
