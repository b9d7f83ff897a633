"""Pairs with a known answer: shown like any other, to everyone, and kept apart from the votes that models learn from."""

import numpy as np
import pytest
from web.served import People, new_id

from palate.data.dataset import PreferenceDataset, open_dataset
from palate.data.known import known_answers, read_known_votes, save_known
from palate.data.labels import collect_labels
from palate.data.queue import open_views
from palate.data.store import live_votes, progress, record_vote
from palate.errors import PalateError
from palate.web.export import export_votes
from palate.web.overview import share
from palate.web.plan import prepare_known


def human(pair_id: str, choice: str, who: str = "owner", source: str = "human") -> dict:
    return {"pair_id": pair_id, "annotator_id": who, "source": source, "choice": choice}


@pytest.fixture
def easy(tmp_path, pair) -> PreferenceDataset:
    """Twelve control pairs; one image of each was said to be the better one."""
    dataset = PreferenceDataset.create(tmp_path / "easy", name="easy")
    dataset.add_pairs(pair(f"easy{i}") for i in range(12))
    dataset.append_votes(human(f"easy{i}", str(i % 2)) for i in range(12))
    return dataset


def answer_all(people: People, name: str, say) -> list:
    """Answer until no view is left; `say` gives left, right, tie or skip for a view."""
    done = []
    while views := open_views(people.engine, name, 1, people.settings):
        record_vote(people.engine, new_id(), name, views[0].number, say(views[0]), 1.0, people.settings)
        done += views
    return done


def better(view, image: str) -> str:
    return "left" if view.order_shown[0] == image else "right"


def knows(view) -> str:
    """Somebody who knows the answers of the control pairs, and likes image 0 elsewhere."""
    return better(view, str(int(view.pair_id.removeprefix("easy")) % 2) if view.known else "0")


def guesses(view) -> str:
    return "left"


def test_known_is_what_enough_people_all_said(easy):
    easy.append_votes(
        [
            *(human("easy0", "0", who) for who in ("ana", "bo")), human("easy1", "1", "ana"), human("easy1", "tie", "bo"),
            human("easy2", "0", "ana"), human("easy2", "skip", "bo"), human("easy2", "1", "judge", "judge"), human("easy3", "0", "ana"),
        ]
    )  # fmt: skip
    assert {(a.pair_id, a.answer, a.voters) for a in known_answers(easy, 2)} == {
        ("easy0", "0", ("ana", "bo", "owner")),
        ("easy2", "0", ("ana", "owner")),
    }
    assert {a.pair_id for a in known_answers(easy)} == {f"easy{i}" for i in range(12)} - {"easy1", "easy3"}


def test_everyone_is_shown_controls_in_an_order_of_their_own(unlabelled, easy):
    people = People(unlabelled, controls=easy, known=0.25, shared=0.5)
    seen = {name: [v.pair_id for v in answer_all(people, name, knows) if v.known] for name in ("ana", "bo")}
    assert all(3 <= len(pairs) == len(set(pairs)) <= 12 for pairs in seen.values())
    assert seen["ana"][:3] != seen["bo"][:3]
    done = progress(people.engine)
    assert done["pairs"] == done["answered"] == 30  # controls are nobody's progress


def test_a_control_looks_like_any_other_pair_and_its_pictures_are_its_own(unlabelled, easy):
    people = People(unlabelled, controls=easy, known=0.5)
    client = people.client("ana")
    told = client.get("/api/views?count=12").json()
    views = open_views(people.engine, "ana", 12, people.settings)
    assert {view.known for view in views} == {True, False}
    assert all(shown.keys() == {"number", "prompt"} for shown in told["views"])
    images = {row["pair_id"]: row for d in (unlabelled, easy) for b in d.iter_pairs() for row in b.to_pylist()}
    for view, shown in zip(views, told["views"], strict=True):
        got = client.get(f"/api/pictures/{view.number}/left").content
        assert got == images[view.pair_id][f"image_{view.order_shown[0]}"]["bytes"]
        assert shown["prompt"] == f"prompt {view.pair_id}"


def test_accuracy_has_its_interval_a_tie_is_wrong_and_a_skip_is_neither(unlabelled, easy):
    people = People(unlabelled, controls=easy, known=0.4, shared=0.5)
    ana = [view for view in answer_all(people, "ana", knows) if view.known]
    answers = iter(["tie", "skip", "skip"])
    bo = [
        view for view in answer_all(people, "bo", lambda v: next(answers, knows(v)) if v.known else "tie") if view.known
    ]
    told = people.client("owner", "owner").get("/api/overview").json()
    assert len(ana) >= 6 and len(bo) >= 4
    assert told["people"]["ana"]["right"] == share([True] * len(ana))
    assert told["people"]["bo"]["right"] == share([False] + [True] * (len(bo) - 3))
    assert told["right"]["n"] == len(ana) + len(bo) - 2
    assert told["between_people"]["share"] == 0.0  # of the pairs, on which bo said tie; controls do not count


def test_votes_on_controls_go_into_a_table_of_their_own_and_move_no_propensity(unlabelled, easy):
    people = People(unlabelled, controls=easy, known=0.4, budgets=(20,))
    views = answer_all(people, "ana", knows)
    controls = {view.pair_id for view in views if view.known}
    done = export_votes(people.engine, unlabelled)
    assert (done.added, done.drawn, done.answered) == (20, 20, 20) and len(controls) >= 5
    assert done.right == {"ana": share([True] * len(controls))}
    dataset = open_dataset(unlabelled.path)
    assert set(dataset.votes()["pair_id"].to_pylist()).isdisjoint(controls) and dataset.problems() == []
    assert set(dataset.pairs()["propensity"].to_pylist()) == {20 / 30}
    rows = read_known_votes(dataset.path).to_pylist()
    assert {row["pair_id"] for row in rows} == controls and all(row["choice"] == row["answer"] for row in rows)
    assert {row["annotator_id"] for row in rows} == {"ana"}
    again = export_votes(people.engine, dataset)
    assert (again.added, len(read_known_votes(dataset.path))) == (0, len(rows))


def test_pairs_that_people_agreed_on_before_are_asked_again_and_their_targets_stay(unlabelled):
    """More votes only where the first ones agree would pull the targets of just these pairs: stopping by outcome."""
    agreed = {f"p{i:02}": str(i % 2) for i in range(6)}
    unlabelled.append_votes(human(pair, choice, who) for pair, choice in agreed.items() for who in ("x", "y", "ana"))
    unlabelled.append_votes(
        [human("p06", "0", who) for who in ("x", "y")] + [human("p07", "0"), human("p07", "1", "x")]
    )
    ids = unlabelled.pairs(["pair_id"])["pair_id"].to_pylist()
    before = collect_labels(ids, unlabelled.votes()).human[:8]
    people = People(unlabelled, controls=unlabelled, known=0.5)
    shown = {name: {v.pair_id for v in answer_all(people, name, guesses) if v.known} for name in ("bo", "ana")}
    assert shown["bo"] == set(agreed) and shown["ana"] == set()  # ana would only repeat her own answer
    export_votes(people.engine, unlabelled)
    dataset = open_dataset(unlabelled.path)
    np.testing.assert_array_equal(collect_labels(ids, dataset.votes()).human[:8], before)
    assert dataset.pairs()["propensity"].to_pylist() == [1.0] * 30
    assert {row["pair_id"]: row["answer"] for row in read_known_votes(dataset.path).to_pylist()} == agreed


def test_a_start_without_controls_asks_none_and_a_later_one_goes_on(unlabelled, easy):
    people = People(unlabelled, controls=easy, known=0.5)
    waiting = open_views(people.engine, "ana", 6, people.settings)
    assert any(view.known for view in waiting)
    without = People(unlabelled)
    save_known(without.engine, [])
    shown = open_views(without.engine, "ana", 8, without.settings)
    assert not any(view.known for view in shown)
    assert {view.number for view in shown} & {view.number for view in waiting if view.known} == set()
    again = People(unlabelled, controls=easy, known=0.5)
    assert [v for v in open_views(again.engine, "ana", 14, again.settings) if v.number < 6] == waiting
    record_vote(again.engine, new_id(), "ana", waiting[0].number, "left", 1.0, again.settings)
    assert len(live_votes(again.engine)) == 1


def test_a_control_is_never_one_of_the_pairs_to_label(unlabelled, easy, pair, tmp_path):
    mixed = PreferenceDataset.create(tmp_path / "mixed", name="mixed")
    mixed.add_pairs([pair("p03"), pair("easy0")])
    mixed.append_votes([human("p03", "0"), human("easy0", "0")])
    people = People(unlabelled, budgets=(5,))  # p03 may be drawn by a larger budget
    assert prepare_known(people.engine, unlabelled, mixed) == (["easy0"], 1)
    with pytest.raises(PalateError, match="no pair on which 3 people or more"):
        prepare_known(people.engine, unlabelled, unlabelled)
    nothing = PreferenceDataset.create(tmp_path / "nothing", name="nothing")
    nothing.add_pairs([pair("p03"), pair("x")])
    with pytest.raises(PalateError, match="no pair has human votes"):
        prepare_known(people.engine, unlabelled, nothing)
    nothing.append_votes([human("p03", "0")])
    with pytest.raises(PalateError, match="all 1 of its pairs"):
        prepare_known(people.engine, unlabelled, nothing)
