"""Fixtures that several rooms share; what they are made of is in tiny.py."""

from pathlib import Path

import pytest
from tiny import make_labelled_dataset, make_pipeline

from palate.data.dataset import PreferenceDataset


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("pipeline") / "tiny")


@pytest.fixture(scope="session")
def v_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("pipeline") / "tiny-v", prediction_type="v_prediction")


@pytest.fixture
def dataset(tmp_path: Path) -> PreferenceDataset:
    return make_labelled_dataset(tmp_path / "data")
