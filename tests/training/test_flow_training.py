"""Runs of Stable Diffusion 3, FLUX, PixArt and Sana: their timesteps are keys, and `palate sample` makes their pictures."""

from pathlib import Path

import pytest
from families_flow import make_flux, make_flux2_klein, make_pixart, make_sana, make_sd3, make_sd35
from tiny import make_labelled_dataset, make_pipeline, refusal

from palate.backbones import load_backbone
from palate.data.samples import Sampling
from palate.sampling.samples import sample
from palate.training.train import train

FAMILIES = {
    "sd3": make_sd3,
    "sd35": make_sd35,
    "flux": make_flux,
    "flux2-klein": make_flux2_klein,
    "pixart": make_pixart,
    "sana": make_sana,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("flow")
    make_labelled_dataset(root / "data", pairs=8, labelled=8)
    for name, make in FAMILIES.items():
        make(root / name)
    return root


def config_of(root: Path, family: str, output: str, **keys) -> dict:
    return {
        "pretrained_model_name_or_path": str(root / family), "dataset": str(root / "data"), "output_dir": str(root / output), "beta": 100.0,
        "max_train_steps": 2, "train_batch_size": 4, "resolution": 64, "learning_rate": 1e-2, "report_to": "none", **keys,
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_a_run(family, root):
    run = train(config_of(root, family, f"{family}-sampled", max_train_steps=1))
    samples = sample(run.path, ["a red circle"], root / f"{family}-samples", Sampling(2, 3.0))
    size = load_backbone(str(root / family)).resolution
    assert samples.images().shape == (1, size, size, 3) and samples.images().std() > 1


# --- timesteps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [{"weighting_scheme": "none"}, {"logit_mean": 1.0}, {"logit_std": 0.2}])
def test_keys_of_timesteps_act_on_the_second_step(keys, root):
    """The loss of the first step is log 2 whatever the timesteps."""
    name = "-".join(map(str, *keys.items()))
    usual, other = (train(config_of(root, "sd3", f"sd3-{name}-{len(k)}", **k)).metrics[1]["loss"] for k in ({}, keys))
    assert usual != other


def test_keys_of_timesteps_that_cannot_be_are_refused(root):
    assert "logit_std: 0" in refusal(lambda: train(config_of(root, "sd3", "refused", logit_std=0.0)))
    line = refusal(lambda: train(config_of(root, "pixart", "refused-2", logit_mean=1.0)))
    assert "logit_mean" in line and "PixArt" in line
    make_pipeline(root / "sd1")
    assert "weighting_scheme" in refusal(lambda: train(config_of(root, "sd1", "refused-3", weighting_scheme="none")))


def test_shared_reference_errors_hold_for_their_timesteps_only(root):
    keys = {"share_reference": True, "seed": 5}
    train(config_of(root, "sana", "shared-one", logit_mean=0.7, **keys))
    shared = train(config_of(root, "sana", "shared-two", **keys)).metrics
    alone = train(config_of(root, "sana", "shared-not", seed=5)).metrics
    assert [m["loss"] for m in shared] == [m["loss"] for m in alone]


@pytest.mark.parametrize(
    "keys", [{"method": "self-npo"}, {"noise": "inversion"}, {"method": "spin"}, {"trains": "classifier"}]
)
def test_methods_that_need_a_schedule_are_refused_for_flow_matching(keys, root):
    line = refusal(lambda: train(config_of(root, "flux", f"no-{'-'.join(keys.values())}", **keys)))
    assert "FLUX.1" in line and "noise schedule" in line
