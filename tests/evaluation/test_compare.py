"""What a comparison computes once for all models and scorers."""

import numpy as np
import pytest
from evaluation.drawn import draw_samples

from palate.evaluation import winrate
from palate.evaluation.compare import compare


def test_drift_is_computed_once_and_means_share_the_draws_that_are_too_many_to_keep(tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    folders = [str(draw_samples(tmp_path / name, rng.integers(60, 200, 30)).folder) for name in "abc"]
    scorers, passes, drawn = ["brightness", "contrast", "warmth"], [], winrate._drawn
    kept = compare(folders[1:], folders[0], scorer=scorers)
    monkeypatch.setattr(winrate, "CELLS", 30 * 2000 - 1)  # of one resample too few
    monkeypatch.setattr(winrate, "_drawn", lambda *given: passes.append(given[2]) or drawn(*given))
    many = compare(folders[1:], folders[0], scorer=scorers)
    assert sum(passes) == 2000 * (1 + len(scorers))  # the drift of all models, and the means of all by each scorer
    for one, other in zip(kept.models, many.models, strict=True):
        assert one.mean == pytest.approx(other.mean, rel=1e-12) and one.win == other.win
        for name, change in one.drift_change.items():
            assert change == pytest.approx(other.drift_change[name], rel=1e-9, abs=1e-12)
