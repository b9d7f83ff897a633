"""Runs of Stable Diffusion 3, FLUX, PixArt and Sana: trained, loaded by diffusers, sampled; their timesteps are keys."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from families_flow import make_flux, make_flux2_klein, make_pixart, make_qwen_image, make_sana, make_sd3, make_sd35
from safetensors.torch import load_file
from tiny import make_labelled_dataset, make_pipeline, refusal

from palate.backbones import load_backbone
from palate.evaluation.samples import Sampling, sample
from palate.training.loop import train
from palate.training.model import load_trained

FAMILIES = {
    "sd3": make_sd3,
    "sd35": make_sd35,
    "flux": make_flux,
    "flux2-klein": make_flux2_klein,
    "pixart": make_pixart,
    "qwen-image": make_qwen_image,
    "sana": make_sana,
}
everywhere = pytest.mark.parametrize("family", FAMILIES)


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


@everywhere
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_a_run_is_trained_and_loads_in_the_stock_pipeline(family, lora, root):
    run = train(config_of(root, family, f"{family}-{lora}", **({"lora": {"rank": 4}} if lora else {})))
    first, second = (metrics["loss"] for metrics in run.metrics)
    assert first == np.float32(math.log(2)) and second != first  # every logit of the first step is exactly 0

    pipeline = DiffusionPipeline.from_pretrained(root / family, torch_dtype=torch.float32)
    if lora and family != "pixart":  # whose pipeline loads no adapters: the run holds merged weights
        assert [path.name for path in run.model_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
        pipeline.load_lora_weights(run.model_path)
    else:
        pipeline.transformer = type(pipeline.transformer).from_pretrained(run.model_path, subfolder="transformer")

    backbone = load_backbone(str(root / family))
    noise = torch.randn(1, *backbone.latent_shape(64), generator=torch.Generator().manual_seed(0))

    def pictures(network: torch.nn.Module) -> torch.Tensor:
        return backbone.sample(network, ["a red circle"], noise, 2, 3.0, "default")

    before = pictures(backbone.network)
    in_diffusers = pictures(pipeline.transformer)
    assert torch.allclose(pictures(load_trained(backbone, run.model_path)), in_diffusers, atol=1e-5)
    assert (in_diffusers - before).abs().max() > 1e-4  # what was trained shows


@pytest.mark.parametrize(
    "family", [name for name in FAMILIES if name != "qwen-image"]
)  # 1024 pixels, however small it is
def test_pictures_of_a_run(family, root):
    run = train(config_of(root, family, f"{family}-sampled", max_train_steps=1))
    samples = sample(run.path, ["a red circle"], root / f"{family}-samples", Sampling(2, 3.0, "euler"))
    size = load_backbone(str(root / family)).resolution
    assert samples.images().shape == (1, size, size, 3) and samples.images().std() > 1


def test_a_resumed_run_ends_as_an_uninterrupted_one(root):
    whole = train(config_of(root, "sd3", "sd3-whole", lora={"rank": 4}, max_train_steps=4))
    parts = config_of(root, "sd3", "sd3-parts", lora={"rank": 4}, checkpointing_steps=2)
    train(parts)
    resumed = train(parts | {"max_train_steps": 4})
    one, other = (load_file(run.model_path / "pytorch_lora_weights.safetensors") for run in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one | other)


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
