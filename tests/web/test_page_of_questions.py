"""Several questions about every pair: one after another, in an order drawn anew, each with votes and propensities of
its own; a labelling without named questions stays what it was."""

import json
import uuid
from collections import defaultdict

import pytest
from web.served import People

from palate.data.database import reading
from palate.data.dataset import open_dataset
from palate.data.questions import wording_of
from palate.data.queue import open_views
from palate.data.store import META, VIEWS, Settings, live_votes, record_vote, repeated_choices, settings_of
from palate.errors import PalateError
from palate.web.export import export_votes
from palate.web.overview import overview
from palate.web.serve import _asking

TWO = {"alignment": wording_of("alignment"), "aesthetics": "Which one would you hang up?"}


def answer_all(people, rater, answer=lambda view: "left", most=10_000):
    done = []
    while len(done) < most and (views := open_views(people.engine, rater, 3, people.settings)):
        view = views[0]
        record_vote(people.engine, uuid.uuid4().hex, rater, view.number, answer(view), 1.0, people.settings)
        done.append(view)
    return done


@pytest.fixture
def unlabelled(tmp_path, pair):
    from palate.data.dataset import PreferenceDataset

    dataset = PreferenceDataset.create(tmp_path / "prefs", "prefs")
    dataset.add_pairs([pair(f"p{k:02}") for k in range(24)])
    return dataset


def test_each_pair_is_asked_about_with_every_question_in_a_drawn_order_while_its_pictures_stay(unlabelled):
    people = People(unlabelled, questions=TWO)
    views = answer_all(people, "ana")
    assert len(views) == 48 and [view.number for view in views] == list(range(48))
    couples = [views[k : k + 2] for k in range(0, 48, 2)]
    assert all(one.pair_id == two.pair_id and one.order_shown == two.order_shown for one, two in couples)
    first = [one.question for one, _ in couples]
    assert {one.question for one, _ in couples} == set(TWO) and 4 <= first.count("alignment") <= 20
    assert all({one.question, two.question} == set(TWO) for one, two in couples)


def test_the_page_is_told_the_wording_of_each_view(unlabelled):
    people = People(unlabelled, questions=TWO)
    views = people.client().get("/api/views?count=4").json()["views"]
    assert len(views) == 4 and {view["question"] for view in views} == set(TWO.values())
    plain = People(unlabelled, store=f"sqlite:///{unlabelled.path / 'other.sqlite'}")
    assert all("question" not in view for view in plain.client().get("/api/views?count=4").json()["views"])


def test_the_export_has_votes_and_propensities_by_question(unlabelled):
    people = People(unlabelled, questions=TWO)

    def skips_half(view):
        return "skip" if view.question == "aesthetics" and int(view.pair_id[1:]) % 2 else "left"

    answer_all(people, "ana", skips_half)
    done = export_votes(people.engine, unlabelled)
    dataset = open_dataset(unlabelled.path)
    assert (done.added, done.answered) == (48, 24) and len(dataset.votes()) == 0 and not dataset.problems()
    versions = {}
    for name, share in (("alignment", 1.0), ("aesthetics", 0.5)):
        votes = dataset.votes(question=name).to_pylist()
        assert len(votes) == 24 and sum(vote["choice"] != "skip" for vote in votes) == 24 * share
        versions[name] = {vote["instruction_version"] for vote in votes}
        assert set(dataset.pairs(["propensity"], question=name)["propensity"].to_pylist()) == {share}
    assert versions["alignment"] != versions["aesthetics"] and all(len(one) == 1 for one in versions.values())
    assert set(dataset.pairs(["propensity"])["propensity"].to_pylist()) == {None}
    assert export_votes(people.engine, unlabelled).added == 0


def test_repeats_and_agreement_are_within_a_question(unlabelled):
    people = People(unlabelled, questions=TWO, repeats=0.4, shared=0.5)
    said = defaultdict(lambda: "left") | {}

    def by_question(view):  # ana always says the same of one image, and the opposite for the other question
        return "left" if (view.question == "alignment") == (view.order_shown == "01") else "right"

    assert not said
    answer_all(people, "ana", by_question)
    answer_all(people, "bo", by_question)
    again = repeated_choices(people.engine, "ana")
    assert len(again) >= 6 and len(again) % 2 == 0 and all(before == after for before, after in again)
    told = overview(people.engine, ["ana", "bo"])
    assert told["with_self"]["share"] == 1.0 and told["between_people"]["share"] == 1.0
    assert told["between_people"]["n"] % 2 == 0 and told["between_people"]["n"] >= 12


def test_a_labelling_without_names_has_the_slots_and_settings_of_ever(unlabelled):
    people = People(unlabelled)
    answer_all(people, "ana", most=3)
    with reading(people.engine) as connection:
        assert {row.slot for row in connection.execute(VIEWS.select())} == {"first"}
        stored = json.loads(connection.execute(META.select()).first().value)
    stored.pop("questions")
    assert Settings(**stored | {"budgets": tuple(stored["budgets"])}) == people.settings  # as an older store has them
    assert {vote["question"] for vote in live_votes(people.engine)} == {"overall"}


def test_a_second_start_with_other_questions_is_refused_and_shown(unlabelled):
    People(unlabelled, questions=TWO)
    with pytest.raises(PalateError, match="--question: labelling began with 'alignment: .*would mix two plans"):
        People(unlabelled, questions={"alignment": TWO["alignment"]})


def test_pairs_that_people_judged_on_another_question_are_shown_and_some_of_several_are_refused(unlabelled):
    votes = [{"pair_id": f"p{k:02}", "annotator_id": "cy", "source": "human", "choice": "0"} for k in range(10)]
    unlabelled.append_votes(votes)
    assert People(unlabelled, questions=TWO).counts["drawn"] == 24
    unlabelled.append_votes([vote | {"question": "alignment"} for vote in votes])
    other = f"sqlite:///{unlabelled.path / 'other.sqlite'}"
    assert People(unlabelled, store=other, questions={"alignment": "Which?"}).counts["drawn"] == 14
    with pytest.raises(PalateError, match="one at a time"):
        People(unlabelled, store=f"sqlite:///{unlabelled.path / 'third.sqlite'}", questions=TWO)


def test_what_people_write_becomes_names_and_wordings():
    plain = Settings("d", (1,))
    assert _asking(Settings.question, plain).questions == {}
    assert _asking("Which is funnier, for you?", plain).question == "Which is funnier, for you?"
    two = _asking(("alignment", "aesthetics: Which one would you hang up?"), plain)
    assert two.questions == TWO and two.names == ("alignment", "aesthetics")
    for wrong in (("alignment", "alignment: Which?"), ("",), ()):
        with pytest.raises(PalateError, match="question"):
            _asking(wrong, plain)


def test_settings_survive_a_restart(unlabelled):
    people = People(unlabelled, questions=TWO)
    assert settings_of(people.engine).questions == TWO
