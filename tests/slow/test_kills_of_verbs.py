"""Every other verb killed at ten random moments: the same call again ends as one that nobody disturbed."""

import kills
import kills_of_verbs
import pytest
from kills_of_verbs import ELSEWHERE, NOTHING, VERBS, prepare
from sharing.hub_server import hub

from palate import cli

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def given(pipeline_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("given") / "given"
    prepare(pipeline_folder, place)
    with hub() as server:
        (place / "hub").write_text(server.address)
        kills_of_verbs.HUBS.append(server)
        yield place
        kills_of_verbs.HUBS.remove(server)


def test_no_verb_is_forgotten():
    assert {name.split()[0] for name in VERBS} | {*ELSEWHERE, *NOTHING} == set(cli.VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_ten_kills_change_nothing(verb, given, tmp_path):
    work, results = VERBS[verb]
    killed, finished = kills.survives(work, results, given, given / "prefs", tmp_path, kills=10, seed=2)
    assert killed == 10 and finished >= 1
