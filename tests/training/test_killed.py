"""Three kills at random moments each; tests/slow has thirty."""

import kills
import pytest
from tiny import make_labelled_dataset


@pytest.mark.parametrize(
    ("work", "results"),
    [
        (kills.train_a_little, kills.of_training),
        (kills.encode, kills.of_encoding),
        (kills.sample_pictures, kills.of_sampling),
    ],
)
def test_what_is_killed_and_started_again_ends_as_if_nothing_had_happened(work, results, pipeline_folder, tmp_path):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=12, labelled=12)
    killed, finished = kills.survives(work, results, pipeline_folder, dataset.path, tmp_path, kills=3, seed=0)
    assert killed == 3 and finished >= 1
