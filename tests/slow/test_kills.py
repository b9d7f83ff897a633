"""Training, encoding and sampling killed at thirty random moments each: the same call again ends in the same bits."""

import kills
import pytest
from tiny import make_labelled_dataset

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("work", "results"),
    [
        (kills.train_a_little, kills.of_training),
        (kills.encode, kills.of_encoding),
        (kills.sample_pictures, kills.of_sampling),
    ],
)
def test_thirty_kills_change_no_bit(work, results, pipeline_folder, tmp_path):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=24, labelled=24)
    killed, finished = kills.survives(work, results, pipeline_folder, dataset.path, tmp_path, kills=30, seed=1)
    print(f"{work.__name__}: {killed} kills, {finished} runs that ended in the same bits")
    assert killed == 30 and finished >= 1
