"""A flipped byte of a finished model is noticed wherever the model is read, and the run's command mends it."""

import pytest
from tiny import make_labelled_dataset

import palate
from palate.backbones import load_backbone
from palate.errors import PalateError
from palate.files import CHECKSUMS
from palate.network.model import load_trained
from palate.sharing.trained import open_trained


@pytest.mark.parametrize("changes", [{"lora": {"rank": 4}}, {"lora": None}, {"method": "pc-diffusion"}], ids=str)
def test_a_flipped_byte_of_the_model_is_noticed_and_the_same_command_writes_it_again(
    changes, pipeline_folder, tmp_path
):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=4, labelled=4)
    config = {
        "pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path),
        "output_dir": str(tmp_path / "run"), "train_batch_size": 2, "max_train_steps": 1, **changes,
    }  # fmt: skip
    run = palate.train(config)
    model = run.path / "model"
    (model / "README.md").write_text("a card that somebody edits")
    weights = next(model.rglob("*.safetensors"))
    whole = weights.read_bytes()

    def read():
        if changes.get("method"):
            return palate.sample(run.path, ["a"], tmp_path / "s", palate.Sampling(steps=1))
        return open_trained(run.path), load_trained(load_backbone(str(pipeline_folder)), model)

    weights.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(PalateError, match=f"{weights.name}: missing, or not what was written there"):
        read()
    palate.train(config)
    assert weights.read_bytes() == whole and (model / CHECKSUMS).is_file()
    assert (model / "README.md").read_text() == "a card that somebody edits"
    read()
