import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny import refusal
from web.served import People, new_id

from palate.audits.evidence import read_evidence
from palate.cli.votes import main as votes_verb
from palate.data.dataset import PreferenceDataset, open_dataset
from palate.data.labels import Labels
from palate.data.queue import open_views
from palate.data.store import Settings, default_store, live_votes, open_store, plan_rows, record_vote, withdraw_vote
from palate.data.summary import summarise
from palate.errors import PalateError
from palate.labels.targets import dedpo
from palate.web.export import export_votes
from palate.web.labelstudio import CHANGED, export_tasks, import_annotations
from palate.web.plan import draw_pairs, labelled_propensities


def answer(people: People, count: int, name: str = "ana", side: str = "left") -> list[str]:
    pairs = []
    for view in open_views(people.engine, name, count, people.settings):
        record_vote(people.engine, new_id(), name, view.number, side, 1.5, people.settings)
        pairs.append(view.pair_id)
    return pairs


def propensity(dataset: PreferenceDataset) -> dict[str, float]:
    table = dataset.pairs(["pair_id", "propensity"])
    return dict(zip(table["pair_id"].to_pylist(), table["propensity"].to_pylist(), strict=True))


def shares(dataset: PreferenceDataset) -> set[float]:
    return {round(value, 12) for value in propensity(dataset).values()}


def test_an_export_writes_every_vote_once_with_all_it_knows(unlabelled):
    people = People(unlabelled, budgets=(10,))
    pairs = answer(people, 6)
    taken_back = next(v for v in live_votes(people.engine) if v["pair_id"] == pairs[0])
    withdraw_vote(people.engine, taken_back["vote_id"], "ana")
    done = export_votes(people.engine, unlabelled)
    assert (done.added, done.already_there, done.drawn, done.answered) == (5, 0, 10, 5)
    again = export_votes(people.engine, open_dataset(unlabelled.path))
    assert (again.added, again.already_there, again.propensities) == (0, 5, 0)
    stored = {v["vote_id"]: v for v in open_dataset(unlabelled.path).votes().to_pylist()}
    assert len(stored) == 5
    for vote in live_votes(people.engine):
        row = stored[vote["vote_id"]]
        assert (row["annotator_id"], row["source"], row["probability"]) == ("ana", "human", None)
        for name in ("pair_id", "choice", "order_shown", "seconds", "instruction_version", "created_at"):
            assert row[name] == vote[name], name
    assert people.settings.instruction_version == ""
    open_dataset(unlabelled.path).validate()


def test_an_export_that_is_killed_in_between_goes_on(unlabelled, monkeypatch):
    people = People(unlabelled)
    answer(people, 4)
    monkeypatch.setattr(unlabelled, "append_votes", lambda rows: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export_votes(people.engine, unlabelled)
    answer(people, 2)
    assert export_votes(people.engine, open_dataset(unlabelled.path)).added == 6


def test_the_propensity_is_the_share_of_pairs_that_got_a_vote(unlabelled):
    people = People(unlabelled, budgets=(20,))
    export_votes(people.engine, unlabelled)
    assert set(propensity(unlabelled).values()) == {None}  # nobody voted yet
    answer(people, 5)
    export_votes(people.engine, unlabelled)
    assert shares(unlabelled) == {round(5 / 30, 12)}
    answer(people, 20)
    answer(people, 1, side="skip")
    export_votes(people.engine, unlabelled)
    assert shares(unlabelled) == {round(20 / 30, 12)}


def test_a_skipped_pair_counts_as_one_without_a_vote(unlabelled):
    people = People(unlabelled, budgets=(10,))
    answer(people, 4)
    answer(people, 6, side="skip")
    done = export_votes(people.engine, unlabelled)
    assert done.answered == 4 and shares(unlabelled) == {round(4 / 30, 12)}


def test_pairs_with_votes_from_before_are_certain_and_are_not_shown(unlabelled):
    old = [f"p{i:02}" for i in range(6)]
    unlabelled.append_votes(
        {"pair_id": pair, "annotator_id": "old", "source": "human", "choice": "skip" if pair == "p05" else "0"}
        for pair in old
    )
    people = People(unlabelled, budgets=(5,))
    shown = answer(people, 30)
    assert len(shown) == 5 and not set(shown) & set(old[:5])
    export_votes(people.engine, unlabelled)
    told = propensity(unlabelled)
    assert [told[pair] for pair in old[:5]] == [1.0] * 5
    assert {told[p] for p in told if p not in old[:5]} == {5 / 25}


def test_a_larger_budget_adds_pairs_and_keeps_what_was_shown(unlabelled):
    small = People(unlabelled, budgets=(6,))
    seen = answer(small, 4)
    large = People(unlabelled, budgets=(15,))
    assert large.settings.budgets == (6, 15)
    seen += answer(large, 30)
    assert len(seen) == len(set(seen)) == 15
    assert {row["pair_id"] for row in plan_rows(large.engine) if row["wave"] == 0} == set(seen[:6])
    export_votes(large.engine, unlabelled)
    assert shares(unlabelled) == {round(15 / 30, 12)}
    with pytest.raises(PalateError, match="--budget 3"):
        People(unlabelled, budgets=(3,))
    assert People(unlabelled).settings.budgets == (6, 15)  # 0: as planned


@pytest.mark.parametrize("change", [{"seed": 1}, {"repeats": 0.2}, {"shared": 0.3}, {"select": "uncertainty"}])
def test_a_plan_is_not_mixed_with_another(unlabelled, change):
    People(unlabelled, budgets=(6,))
    with pytest.raises(PalateError, match=f"--{next(iter(change))}: labelling began with"):
        People(unlabelled, **change)


def test_a_store_of_another_dataset_is_refused(unlabelled, pair, tmp_path):
    people = People(unlabelled)
    other = PreferenceDataset.create(tmp_path / "second", name="second")
    other.add_pairs([pair("x")])
    with pytest.raises(PalateError, match="another dataset"):
        People(other, store=f"sqlite:///{unlabelled.path / 'votes.sqlite'}")
    with pytest.raises(PalateError, match="another dataset"):
        export_votes(people.engine, other)


def test_datasets_with_nothing_to_show_say_why(unlabelled, pair, tmp_path):
    empty = PreferenceDataset.create(tmp_path / "empty", name="empty")
    with pytest.raises(PalateError, match="no pair of two images"):
        People(empty)
    one = pair("single")
    empty.add_pairs([{k: v for k, v in one.items() if k != "image_1"}])
    with pytest.raises(PalateError, match="no pair of two images"):
        People(empty)
    unlabelled.append_votes(
        {"pair_id": p, "annotator_id": "old", "source": "human", "choice": "0"} for p in unlabelled.pair_ids()
    )
    with pytest.raises(PalateError, match="voted on all"):
        People(unlabelled)


def test_what_people_label_under_active_selection_gives_an_unbiased_target_wherever_they_stop():
    """Two draws by uncertainty, people who stop in the middle of either, the propensities of an export, DeDPO."""
    rng = np.random.default_rng(5)
    judge = rng.uniform(0.02, 0.98, 300)
    unsure = 1 - np.abs(2 * judge - 1)
    human = (rng.random(300) < 0.1 + 0.8 * unsure).astype(float)  # the judge asks where people prefer image 0
    found, naive = [], []
    for seed in range(300):
        settings = Settings("data", (40,), "uncertainty", seed)
        rows = [
            {"pair_id": f"p{i}", "kind": "left", "propensity": 1.0, "rank": -1.0, "score": score, "wave": -1}
            for i, score in enumerate(unsure)
        ]
        draw_pairs(rows, settings)
        answered = first(rows, 0, 25)
        settings = replace(settings, budgets=(40, 90))
        draw_pairs(rows, settings)
        assert all(row["wave"] == 0 for row in rows if row["pair_id"] in answered)
        answered |= first(rows, 0, 30) | first(rows, 1, 20)
        told = labelled_propensities(settings, rows, answered)
        propensity = np.array([told[f"p{i}"] for i in range(300)])
        voted = np.where([f"p{i}" in answered for i in range(300)], human, np.nan)
        for values, given in ((found, propensity), (naive, np.full(300, len(answered) / 300))):
            targets = dedpo(Labels(voted, judge, given))
            values.append(np.mean(targets.weight * targets.target * unsure))
    truth, error = np.mean(human * unsure), np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - truth) < 3.5 * error
    assert abs(np.mean(naive) - truth) > 7 * np.std(naive) / np.sqrt(len(naive))


def first(rows: list[dict], wave: int, count: int) -> set[str]:
    """The pairs of a wave that people got to who answered `count` of it, in the order of showing."""
    drawn = sorted((row for row in rows if row["wave"] == wave), key=lambda row: row["rank"])
    return {row["pair_id"] for row in drawn[:count]}


def test_an_export_rewrites_no_pair_and_what_reads_propensities_sees_them(unlabelled):
    shards = {path: path.read_bytes() for path in (unlabelled.path / "pairs").iterdir()}
    before = [row for batch in unlabelled.iter_pairs() for row in batch.to_pylist()]
    people = People(unlabelled, budgets=(20,))
    answer(people, 15)
    assert export_votes(people.engine, unlabelled).propensities == 30
    assert {path: path.read_bytes() for path in (unlabelled.path / "pairs").iterdir()} == shards
    after = [row for batch in open_dataset(unlabelled.path).iter_pairs() for row in batch.to_pylist()]
    assert after == [row | {"propensity": 15 / 30} for row in before]
    assert summarise(unlabelled)["propensity"]["mean"] == 15 / 30
    assert set(read_evidence(unlabelled).propensity) == {15 / 30}


# the verb -------------------------------------------------------------------------------------------------------------


def test_the_verb_exports_and_counts(unlabelled, capsys):
    people = People(unlabelled, budgets=(10,))
    answer(people, 4)
    votes_verb(["export", str(unlabelled.path)])
    assert (
        "4 votes added, 0 were there already; 4 of 10 drawn pairs have one; propensity set on 30 pairs"
        in capsys.readouterr().out
    )
    votes_verb(["export", str(unlabelled.path), "--json"])
    assert json.loads(capsys.readouterr().out)["already_there"] == 4


def test_any_name_of_a_folder_will_do(unlabelled, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("PALATE_STORE", raising=False)
    folder = tmp_path / """a? b=1&c #d 100%25 'e' "f" :memory:"""
    unlabelled.path.rename(folder)
    people = People(open_dataset(folder), store=default_store(folder))
    answer(people, 4)
    assert (folder / "votes.sqlite").exists() and [path.name for path in tmp_path.iterdir()] == [folder.name]
    votes_verb(["export", str(folder)])
    assert "4 votes added" in capsys.readouterr().out


def test_an_export_before_anybody_labelled_is_one_line_and_makes_no_file(unlabelled):
    with pytest.raises(PalateError, match="Label first"):
        votes_verb(["export", str(unlabelled.path)])
    assert not (unlabelled.path / "votes.sqlite").exists()
    open_store(f"sqlite:///{unlabelled.path / 'votes.sqlite'}")
    with pytest.raises(PalateError, match="Label first"):
        votes_verb(["export", str(unlabelled.path)])


# Label Studio ---------------------------------------------------------------------------------------------------------


def labelled(dataset: PreferenceDataset) -> PreferenceDataset:
    choices = ["0", "1", "tie", "skip"]
    dataset.append_votes(
        {
            "vote_id": f"v{i}", "pair_id": f"p{i:02}", "annotator_id": "ana", "source": "human", "choice": choices[i % 4],
            "order_shown": ("01", "10")[i % 2], "seconds": 2.0, "instruction_version": "q", "created_at": f"2026-01-0{i + 1}T00:00:00Z",
        }
        for i in range(8)
    )  # fmt: skip
    dataset.append_votes([{"pair_id": "p00", "annotator_id": "j", "source": "judge", "choice": "1"}])
    return dataset


def test_votes_go_to_label_studio_and_come_back_the_same(unlabelled, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(unlabelled.path, copy)
    labelled(unlabelled)
    assert export_tasks(unlabelled, tmp_path / "ls.json") == {"tasks": 30, "annotations": 8, "without pictures": 30}
    other = open_dataset(copy)
    nothing_else = {"of unknown people": 0, "left out": {}}
    assert import_annotations(other, tmp_path / "ls.json") == {"added": 8, "already there": 0} | nothing_else
    assert import_annotations(other, tmp_path / "ls.json") == {"added": 0, "already there": 8} | nothing_else
    human = [vote for vote in unlabelled.votes().to_pylist() if vote["source"] == "human"]
    assert open_dataset(copy).votes().to_pylist() == human


def test_a_task_has_the_form_of_label_studio(unlabelled, tmp_path):
    labelled(unlabelled)
    export_tasks(unlabelled, tmp_path / "ls.json", pictures=True)
    task = json.loads((tmp_path / "ls.json").read_text())[1]
    assert task["data"]["pair_id"] == "p01" and task["data"]["prompt"] == "prompt p01"
    assert task["data"]["image_0"].startswith("data:image/jpeg;base64,/9j/")
    (result,) = task["annotations"][0]["result"]
    assert (result["type"], result["value"], result["to_name"]) == (
        "pairwise",
        {"selected": "right"},
        "preference",
    )


def test_annotations_made_in_label_studio_become_votes(unlabelled, tmp_path):
    def annotation(n: int, by, **value) -> dict:
        result = (
            [{"type": "pairwise", "from_name": "pw", "to_name": "image_0,image_1", "value": value}] if value else []
        )
        return {
            "id": n,
            "completed_by": by,
            "result": result,
            "lead_time": 3.5,
            "created_at": "2026-02-01T10:00:00.123Z",
        }

    tasks = [
        {"id": 1, "data": {"pair_id": "p00"}, "annotations": [annotation(1, 7, selected="left"), annotation(2, {"email": "bo@x"}, selected="right")]},
        {"id": 2, "data": {"pair_id": "p01"}, "annotations": [annotation(3, 7) | {"was_cancelled": True}, annotation(4, 8)]},
        {"id": 3, "data": {"pair_id": "gone"}, "annotations": [annotation(5, 7, selected="left")]},
        {"id": 4, "data": {"text": "x"}, "annotations": [annotation(6, 7, selected="left")]},
        {"id": 5, "data": {"pair_id": "p02"}},
    ]  # fmt: skip
    (tmp_path / "ls.json").write_text(json.dumps(tasks))
    done = import_annotations(unlabelled, tmp_path / "ls.json")
    assert done["added"] == 3
    assert done["left out"] == {
        "without a choice": 1, "of pairs that are not in the dataset": 1, "of tasks without pair_id": 1,
    }  # fmt: skip
    got = {(v["pair_id"], v["annotator_id"], v["choice"], v["seconds"]) for v in unlabelled.votes().to_pylist()}
    assert got == {
        ("p00", "label-studio-7", "0", 3.5),
        ("p00", "bo@x", "1", 3.5),
        ("p01", "label-studio-7", "skip", 3.5),
    }
    assert import_annotations(unlabelled, tmp_path / "ls.json")["already there"] == 3


def form(pair_id, *annotations: dict, **data) -> dict:
    return {"id": 1, "data": {"pair_id": pair_id, "prompt": "x"} | data, "annotations": list(annotations)}


def said(side: str | None, unique_id: str = "u1", *more: dict, **fields) -> dict:
    """An annotation as Label Studio writes it."""
    pairwise = {
        "type": "pairwise",
        "from_name": "preference",
        "to_name": "image_0,image_1",
        "value": {"selected": side},
        "id": "a",
    }
    return {
        "id": 1, "unique_id": unique_id, "completed_by": 7, "was_cancelled": False, "lead_time": 3.2, "created_at": "2026-01-02T03:04:05.1Z",
        "result": [*([pairwise] if side else []), *more],
    } | fields  # fmt: skip


TIE = {"type": "choices", "from_name": "tie", "to_name": "image_0", "value": {"choices": ["tie"]}, "id": "b"}


def read_forms(dataset: PreferenceDataset, folder, *tasks: dict, encoding: str = "utf-8") -> dict:
    (folder / "ls.json").write_bytes(json.dumps(list(tasks)).encode(encoding))
    return import_annotations(dataset, folder / "ls.json")


def test_an_edit_made_in_label_studio_is_counted_and_never_silently_lost(unlabelled, tmp_path, capsys):
    assert read_forms(unlabelled, tmp_path, form("p10", said("left")))["added"] == 1
    edited = form("p10", said("right", updated_at="2026-02-02T03:04:05Z"))
    done = read_forms(unlabelled, tmp_path, edited)
    assert (done["added"], done["already there"], done["left out"]) == (0, 0, {CHANGED: 1})
    votes_verb(["import", str(unlabelled.path), "--label-studio", str(tmp_path / "ls.json")])
    assert "0 votes added, 0 were there already, 1 changed in Label Studio since" in capsys.readouterr().out
    assert [vote["choice"] for vote in open_dataset(unlabelled.path).votes().to_pylist()] == ["0"]


def test_a_picture_and_a_tie_at_once_are_unclear(unlabelled, tmp_path):
    done = read_forms(unlabelled, tmp_path, form("p11", said("right", "u3", TIE), said(None, "u4", TIE)))
    assert done["added"] == 1 and done["left out"] == {"with more than one choice": 1}
    assert [vote["choice"] for vote in unlabelled.votes().to_pylist()] == ["tie"]


def test_nobody_is_called_none(unlabelled, tmp_path):
    people = [None, True, {}, {"email": ""}, {"id": 3, "email": ""}, "", "bo", {"email": "c@x", "id": 4}, 5]
    tasks = [form(f"p{i:02}", said("left", f"u{i}", completed_by=by)) for i, by in enumerate(people)]
    done = read_forms(unlabelled, tmp_path, *tasks)
    assert done["added"] == 9 and done["of unknown people"] == 5
    names = [vote["annotator_id"] for vote in unlabelled.votes().to_pylist()]
    assert names == ["unknown"] * 4 + ["label-studio-3", "unknown", "bo", "c@x", "label-studio-5"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_mark_at_the_start_of_the_file_is_no_content(unlabelled, tmp_path, encoding):
    assert read_forms(unlabelled, tmp_path, form("p14", said("left")), encoding=encoding)["added"] == 1


def test_what_label_studio_rewrites_is_taken_from_the_data_of_the_task(unlabelled, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(unlabelled.path, copy)
    export_tasks(labelled(unlabelled), tmp_path / "ls.json")
    tasks = json.loads((tmp_path / "ls.json").read_text())
    for task in tasks:
        for annotation in task["annotations"]:  # as its import does
            annotation |= {
                "import_id": annotation["id"],
                "id": annotation["id"] + 500,
                "unique_id": new_id(),
                "completed_by": 1,
            }
            annotation |= {"created_at": "2027-01-01T00:00:00Z"}
    done = read_forms(open_dataset(copy), tmp_path, *tasks)
    assert (done["added"], done["left out"]) == (8, {})
    human = [vote for vote in unlabelled.votes().to_pylist() if vote["source"] == "human"]
    assert open_dataset(copy).votes().to_pylist() == human
    assert read_forms(unlabelled, tmp_path, *tasks)["already there"] == 8


def test_whatever_stands_in_one_annotation_the_others_come_in(unlabelled, tmp_path):
    odd = [
        said("left", "a", lead_time="soon"), said("left", "b", created_at="never"), said("left", "c", created_at=5), said("left", "\ud800"),
        said("left", "d", completed_by="\udfff"), said(["left"], "e"), said("left", "f", lead_time=10**400), said({}, "g"), None, 5, "x", [],
        said("left", "h", result="left"), said("left", "i", result=[5, None, {"type": "pairwise", "value": 7}]), said("left", "j", created_at="9999-12-31T23:59:59-14:00"),
    ]  # fmt: skip
    kept = {"1": {"annotator_id": 5}, "2": 7}
    tasks = [
        form("p01", *odd),
        form(["p02"], said("left", "k")),
        form(None, said("left", "l")),
        form({}, said("left", "m")),
    ]
    tasks += [
        form("p03", said("left", "n", import_id=1), palate_votes=kept),
        form("p04", said("left", "o"), palate_votes=5),
    ]
    tasks += [form("p05") | {"annotations": "none"}, form("p06", said("left", "p"))]
    done = read_forms(unlabelled, tmp_path, *tasks)
    added = {vote["vote_id"] for vote in unlabelled.votes().to_pylist()}
    assert added == {"o", "p"} and done["added"] == 2
    assert sum(done["left out"].values()) == len(odd) + 4
    assert open_dataset(unlabelled.path).problems() == []


def test_numbers_may_name_pairs(unlabelled, pair, tmp_path):
    unlabelled.add_pairs([pair("15")])
    done = read_forms(unlabelled, tmp_path, form(15, said("left")), form(16, said("left", "u2")))
    assert done["added"] == 1 and done["left out"] == {"of pairs that are not in the dataset": 1}


@pytest.mark.parametrize(
    "text, line",
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("1" * 10_000, "not JSON"),
        ("\xff", "not text in UTF-8"),
        ('{"a": 1}', "not a list"),
        ("[1]", "not a list"),
        (None, "no such file"),
    ],
)
def test_files_that_are_not_label_studios_are_one_line(unlabelled, tmp_path, text, line):
    if text is not None:
        (tmp_path / "ls.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PalateError, match=line):
        votes_verb(["import", str(unlabelled.path), "--label-studio", str(tmp_path / "ls.json")])


def test_json_min_which_lacks_what_tells_votes_apart_is_refused_by_name(unlabelled, tmp_path):
    """As Label Studio 1.23.2 writes it (label_studio_sdk, converter.py, convert_to_json_min)."""
    entry = {
        "pair_id": "p00", "prompt": "x", "id": 1, "preference": [{"selected": "left"}], "annotator": 1, "annotation_id": 4,
        "created_at": "2026-01-02T03:04:05.1Z", "updated_at": "2026-01-02T03:04:05.1Z", "lead_time": 3.2,
    }  # fmt: skip
    (tmp_path / "min.json").write_text(json.dumps([entry, entry | {"annotation_id": None}]))
    line = refusal(lambda: import_annotations(unlabelled, tmp_path / "min.json"))
    assert "JSON-MIN" in line and line.endswith("In Label Studio choose Export, then JSON.")
    assert unlabelled.votes().num_rows == 0
