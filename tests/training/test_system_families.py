"""What a training needs and where its reference comes from, for a family of each kind of network."""

import pytest
import torch
from families_flow import make_flux, make_pixart, make_qwen_image, make_sana, make_sd3
from families_unet import make_sdxl
from safetensors.torch import load_file
from tiny import make_labelled_dataset

from palate.training.encode import encode
from palate.training.loop import train

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
