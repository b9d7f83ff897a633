"""What every family of models must hold, adapters and all weights: exact zeros at the start, a step that helps, bit-exact
resume, weights that diffusers' own pipeline loads and samples alike.

A new family adds a builder to tests/families.py; `docs/add-a-backbone.md` says what else it takes.
"""

import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DiffusionPipeline
from families import FAMILIES
from tiny import PROMPTS, make_labelled_dataset

import palate
from palate.backbones import load_backbone
from palate.labels.votes import prepare_rows
from palate.run.load import load_config
from palate.sampling.samples import load_model
from palate.training.assemble import assemble

SIZE = 64

every_family = pytest.mark.parametrize("family", FAMILIES)
both_ways = pytest.mark.parametrize("lora", [{"rank": 2}, None], ids=["lora", "full"])


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    made = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = FAMILIES[family](tmp_path_factory.mktemp("families") / family)
        return made[family]

    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_labelled_dataset(tmp_path_factory.mktemp("prefs") / "data", pairs=4, labelled=4)


def settings(folder: Path, dataset, run: Path, **changes) -> dict:
    return {
        "pretrained_model_name_or_path": str(folder), "dataset": str(dataset.path), "output_dir": str(run), "resolution": SIZE, "beta": 100.0,
        "train_batch_size": 2, "learning_rate": 1e-3, "report_to": "none", **changes,
    }  # fmt: skip


def put_together(folder: Path, dataset, run: Path, **changes):
    """Everything of a run but its loop."""
    config = load_config(settings(folder, dataset, run, **changes))
    run.mkdir()
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    return assemble(config, dataset, load_backbone(str(folder)), prepare_rows(dataset, config), accelerator, run)


def assert_zero_logits(parts) -> None:
    logits = parts.stepper.networks.logits(parts.stepper.source(0))
    assert logits.dtype == torch.float32 and torch.equal(logits, torch.zeros(2))
    assert all(parameter.dtype == torch.float32 for parameter in parts.policy.parameters)


@torch.no_grad()
def prediction(parts) -> torch.Tensor:
    return parts.stepper.networks.predict(parts.policy.network, parts.stepper.source(0))


@every_family
@both_ways
def test_logits_start_at_exactly_zero_and_a_step_lowers_the_loss_as_its_gradient_says(
    family, lora, folder_of, dataset, tmp_path
):
    half = put_together(folder_of(family), dataset, tmp_path / "half", lora=lora, mixed_precision="bf16")
    assert_zero_logits(half)
    rough = prediction(half)
    half.stepper.accumulate(0)
    assert half.stepper.take_loss() == pytest.approx(math.log(2), abs=1e-6)
    assert all(p.grad is None or p.grad.isfinite().all() for p in half.policy.parameters)

    parts = put_together(folder_of(family), dataset, tmp_path / "run", lora=lora)
    assert_zero_logits(parts)
    fine = prediction(parts)
    assert 1e-4 < (rough - fine).norm() / fine.norm() < 0.05  # bf16 has 8 bits
    parts.stepper.accumulate(0)
    assert parts.stepper.take_loss() == pytest.approx(math.log(2), abs=1e-6)
    with torch.no_grad():
        trained = [parameter for parameter in parts.policy.parameters if parameter.grad is not None]
        steepness = sum(parameter.grad.square().sum() for parameter in trained)
        for parameter in trained:
            parameter -= 1e-3 / steepness * parameter.grad
    parts.stepper.accumulate(0)  # the same pairs at the same draws
    assert math.log(2) - parts.stepper.take_loss() == pytest.approx(1e-3, rel=0.1)


@every_family
@both_ways
def test_a_resumed_run_ends_bit_identical_and_diffusers_samples_what_it_saved(
    family, lora, folder_of, dataset, tmp_path
):
    folder, keys = folder_of(family), {"lora": lora, "learning_rate": 1e-2}
    whole = palate.train(settings(folder, dataset, tmp_path / "whole", max_train_steps=2, **keys))
    palate.train(settings(folder, dataset, tmp_path / "resumed", max_train_steps=1, **keys))
    resumed = palate.train(settings(folder, dataset, tmp_path / "resumed", max_train_steps=2, **keys))
    files = {path.relative_to(whole.path) for path in whole.model_path.rglob("*.safetensors")}
    assert files and all((whole.path / file).read_bytes() == (resumed.path / file).read_bytes() for file in files)

    base, (backbone, network) = load_backbone(str(folder)), load_model(whole.path)
    stock = DiffusionPipeline.from_pretrained(folder)
    if (whole.model_path / "pytorch_lora_weights.safetensors").exists():
        stock.load_lora_weights(whole.model_path)
    else:
        component = getattr(stock, base.denoiser)
        setattr(stock, base.denoiser, type(component).from_pretrained(whole.model_path, subfolder=base.denoiser))
    noise = torch.randn(2, *base.latent_shape(SIZE), generator=torch.Generator().manual_seed(0))

    def pictures(network: torch.nn.Module) -> torch.Tensor:
        return backbone.sample(network.eval(), list(PROMPTS[:2]), noise, 2, 3.0, "default")

    ours, theirs = pictures(network), pictures(getattr(stock, base.denoiser))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert (ours - pictures(base.network)).abs().max() > 1e-4  # what was trained is in it


@every_family
def test_sampling_in_half_precision_holds_the_denoiser_in_it_and_draws_nearly_the_same(family, folder_of):
    (backbone, half), (_, whole) = (load_model(folder_of(family), mixed_precision=kind) for kind in ("bf16", "no"))
    widths = {
        module.weight.dtype for module in half.modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
    }
    assert widths == {torch.bfloat16} and {weight.dtype for weight in whole.parameters()} == {torch.float32}
    assert {weight.dtype for weight in backbone.vae.parameters()} == {torch.float32}
    noise = torch.randn(2, *backbone.latent_shape(SIZE), generator=torch.Generator().manual_seed(0))
    rough, fine = (backbone.sample(one.eval(), list(PROMPTS[:2]), noise, 2, 3.0, "default") for one in (half, whole))
    assert rough.dtype == torch.float32
    assert 1e-6 < (rough - fine).norm() / fine.norm() < 0.05
