"""Fixtures that several rooms share; what they are made of is in tiny.py."""

from pathlib import Path

import pytest
from shared import SHARED
from tiny import make_labelled_dataset, make_pipeline

from palate.data.dataset import PreferenceDataset


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `shared(PATH)` are skipped where that file or folder of others' material is not beside the project."""
    for item in items:
        for mark in item.iter_markers("shared"):
            if not (SHARED / mark.args[0]).exists():
                item.add_marker(pytest.mark.skip(reason=f"../shared/{mark.args[0]} is not beside the project"))


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("pipeline") / "tiny")


@pytest.fixture(scope="session")
def v_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("pipeline") / "tiny-v", prediction_type="v_prediction")


@pytest.fixture
def dataset(tmp_path: Path) -> PreferenceDataset:
    return make_labelled_dataset(tmp_path / "data")
