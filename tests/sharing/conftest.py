from pathlib import Path

import pytest
from tiny import make_labelled_dataset

import palate


def train(pipeline_folder: Path, folder: Path, **changes) -> Path:
    """A run of two steps that change the pictures."""
    data = folder / "data"
    dataset = palate.open_dataset(data) if data.is_dir() else make_labelled_dataset(data)
    config = {
        "pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path), "output_dir": str(folder / "run"),
        "learning_rate": 0.03, "train_batch_size": 4, "max_train_steps": 2, "report_to": "none", **changes,
    }  # fmt: skip
    return palate.train(config).path


@pytest.fixture(scope="session")
def adapters(pipeline_folder, tmp_path_factory) -> Path:
    """A run that trained adapters whose alpha is twice their rank."""
    return train(pipeline_folder, tmp_path_factory.mktemp("adapters"), lora={"rank": 4, "alpha": 8})


@pytest.fixture(scope="session")
def full(pipeline_folder, tmp_path_factory) -> Path:
    """A run that trained all weights."""
    return train(pipeline_folder, tmp_path_factory.mktemp("full"), learning_rate=0.003)
