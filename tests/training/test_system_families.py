"""What a training needs and where its reference comes from, for a family of each kind of network."""

import pytest
import torch
from families_flow import make_flux, make_pixart, make_qwen_image, make_sana, make_sd3
from families_unet import make_sdxl
from safetensors.torch import load_file
from tiny import make_labelled_dataset

from palate.training.encode import encode
from palate.training.train import train

FAMILIES = {
    "sdxl": make_sdxl, "sd3": make_sd3, "flux": make_flux, "pixart": make_pixart, "sana": make_sana, "qwen": make_qwen_image,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dry_run_estimates_and_precomputed_errors_change_no_bit(family, tmp_path, capsys):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=8, labelled=8)
    config = {
        "pretrained_model_name_or_path": str(FAMILIES[family](tmp_path / family)), "dataset": str(dataset.path), "output_dir": str(tmp_path / "run"),
        "max_train_steps": 2, "train_batch_size": 4, "resolution": 64, "learning_rate": 1e-3, "beta": 100.0, "report_to": "none",
        "lora": {"rank": 4}, "reference_draws": 1, "mixed_precision": "bf16",
    }  # fmt: skip
    train(config, dry_run=True)
    assert "activations" in capsys.readouterr().out
    train(config)
    encode(config)
    train({**config, "output_dir": str(tmp_path / "again")}, reference="precomputed", weight_dtype="bf16")
    first, second = (load_file(tmp_path / name / "checkpoints/step-000002/weights.safetensors") for name in ("run", "again"))  # fmt: skip
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(tensor.any() for name, tensor in first.items() if "lora_B" in name)


@pytest.fixture
def voted(tmp_path):
    return make_labelled_dataset(tmp_path / "data", pairs=4, labelled=4)


def short(folder, voted, tmp_path, **changes) -> dict:
    return {
        "pretrained_model_name_or_path": str(folder), "dataset": str(voted.path), "output_dir": str(tmp_path / "run"), "max_train_steps": 1,
        "train_batch_size": 2, "resolution": 64, "learning_rate": 1e-2, "beta": 100.0, "report_to": "none", **changes,
    }  # fmt: skip


def test_adapters_are_merged_into_weights_that_were_never_rounded(voted, tmp_path):
    folder = make_pixart(tmp_path / "pixart")
    run = train(short(folder, voted, tmp_path, lora={"rank": 2}, mixed_precision="bf16", weight_dtype="bf16"))
    before = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    after = load_file(run.model_path / "transformer/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("attn" in name and name.endswith("weight") for name in changed)
    moved = max((after[name] - before[name]).abs().max() for name in changed)
    assert 0 < moved < 1e-1


def test_the_exact_safeguard_trains_a_network_with_parts_that_nothing_reaches(voted, tmp_path):
    folder = make_qwen_image(tmp_path / "qwen")
    run = train(short(folder, voted, tmp_path, method="sdpo-exact", lora={"rank": 2, "target_modules": ["to_q", "to_add_out"]}))  # fmt: skip
    assert 0 <= run.metrics[0]["lambda/exact"] <= 1
