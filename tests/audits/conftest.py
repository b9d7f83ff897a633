"""A small world drawn by code, audited once for all tests."""

import numpy as np
import pytest
from audits.drawn_world import LABELLED, PAIRS, VOTED_AGAIN, draw_pairs, show, with_votes, world_votes, write_pairs

from palate.audits.findings import audit
from palate.data.dataset import PreferenceDataset


@pytest.fixture(scope="session")
def scenes():
    return draw_pairs(PAIRS)


@pytest.fixture(scope="session")
def shown(scenes):
    prompts, sides = scenes
    return tuple(show(prompts, side) for side in sides)


@pytest.fixture(scope="session")
def unvoted(tmp_path_factory, scenes) -> PreferenceDataset:
    return write_pairs(tmp_path_factory.mktemp("drawn") / "data", *scenes)


@pytest.fixture(scope="session")
def world(tmp_path_factory, unvoted, shown) -> PreferenceDataset:
    """160 of 400 pairs labelled by four people, one of them of the opposite taste; 40 shown again to one; two judges."""
    labelled = np.random.default_rng(1).choice(PAIRS, LABELLED, replace=False)
    votes = world_votes("majority", shown, labelled)
    votes += world_votes("majority", shown, labelled[:120], alias="second", seed=1)
    votes += world_votes("hesitant", shown, labelled[:120])
    votes += world_votes("minority", shown, labelled[:80])
    votes += world_votes("hesitant", shown, labelled[:VOTED_AGAIN], seed=7, again="/again")
    for judge in ("biased-judge", "poor-judge"):
        votes += world_votes(judge, shown, np.arange(PAIRS))
    return with_votes(unvoted, tmp_path_factory.mktemp("world") / "data", votes)


@pytest.fixture(scope="session")
def findings(world):
    return audit(world)
