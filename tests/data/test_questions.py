"""A vote answers a question: overall where it names none. Old datasets are read as they are, and no ids change."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import palate
from palate.data.dataset import README, README_BEFORE, PreferenceDataset, open_dataset
from palate.data.importing import import_pairs
from palate.data.questions import named_wording, questions_of, require_question, votes_on, wording_of
from palate.data.schema import OVERALL_VOTES, VOTES, vote_row
from palate.data.shards import write_table
from palate.errors import PalateError

VOTE = {"pair_id": "a", "annotator_id": "ana", "source": "human", "choice": "0"}


@pytest.fixture
def prefs(tmp_path, pair):
    dataset = PreferenceDataset.create(tmp_path / "prefs", "prefs")
    dataset.add_pairs([pair(name) for name in "abc"])
    return dataset


def old_shard(dataset, *votes):
    """A shard as versions without questions wrote it."""
    rows = [{name: value for name, value in vote_row(vote, "").items() if name != "question"} for vote in votes]
    write_table(dataset.path / "votes" / "votes-00000-old.parquet", pa.Table.from_pylist(rows, schema=OVERALL_VOTES))


def test_overall_votes_keep_the_ids_that_they_ever_had_and_named_questions_have_others():
    plain = vote_row(VOTE, "")
    assert plain["vote_id"] == "60ea9f8de638baf3349388143cd7b647"
    assert plain["question"] is None and vote_row(VOTE | {"question": " overall "}, "")["vote_id"] == plain["vote_id"]
    named = [vote_row(VOTE | {"question": name}, "")["vote_id"] for name in ("alignment", "aesthetics")]
    assert len({plain["vote_id"], *named}) == 3
    for wrong in ("", "  ", "a\nb", "x" * 81):
        with pytest.raises(PalateError, match="is no name"):
            vote_row(VOTE | {"question": wrong}, "row 1")


def test_an_old_dataset_opens_as_it_is_and_takes_votes_on_questions(prefs):
    old_shard(prefs, VOTE, VOTE | {"pair_id": "b", "choice": "1"})
    (prefs.path / "README.md").write_text(README_BEFORE)
    before = open_dataset(prefs.path).votes()
    assert before["question"].null_count == len(before) == 2 and not open_dataset(prefs.path).problems()
    dataset = open_dataset(prefs.path)
    dataset.append_votes([VOTE | {"pair_id": "c"}])
    new = [path for path in (prefs.path / "votes").glob("*.parquet") if "old" not in path.name]
    assert [pq.read_schema(path).names for path in new] == [OVERALL_VOTES.names]  # overall votes: as it ever was
    dataset.append_votes(
        [VOTE | {"choice": "1", "question": "alignment"}, VOTE | {"choice": "1", "question": "fidelity"}]
    )
    dataset = open_dataset(prefs.path)
    assert [row["choice"] for row in dataset.votes().to_pylist()] == ["0", "1", "0"]
    assert [row["question"] for row in dataset.votes(question="alignment").to_pylist()] == ["alignment"]
    assert len(dataset.votes(question=None)) == 5 and not dataset.problems()
    assert questions_of(dataset) == {"overall": 3, "alignment": 1, "fidelity": 1}
    assert (prefs.path / "README.md").read_text() == README
    datasets = pytest.importorskip("datasets")
    read = datasets.load_dataset(str(prefs.path), "votes", cache_dir=str(prefs.path.parent / "cache"))["train"]
    assert sorted(map(str, read["question"][:])) == ["None", "None", "None", "alignment", "fidelity"]


def test_a_shard_whose_column_of_questions_has_another_name_is_damaged_not_overall(prefs):
    prefs.append_votes([VOTE | {"question": "alignment"}])
    (shard,) = (prefs.path / "votes").glob("*.parquet")
    table = pq.read_table(shard)
    write_table(shard, table.rename_columns([n if n != "question" else "questinn" for n in table.column_names]))
    with pytest.raises(PalateError, match="question is missing"):
        open_dataset(prefs.path).votes()


def test_propensities_are_of_a_question(prefs):
    prefs.set_propensities({"a": 0.5})
    kept = pq.read_schema(prefs.path / "propensity.parquet").names
    prefs.set_propensities({"a": 0.25, "b": 0.125}, question="alignment")
    dataset = open_dataset(prefs.path)
    assert kept == ["pair_id", "propensity"] and not dataset.problems()
    assert dataset.pairs(["propensity"])["propensity"].to_pylist() == [0.5, None, None]
    assert dataset.pairs(["propensity"], question="alignment")["propensity"].to_pylist() == [0.25, 0.125, None]
    assert dataset.set_propensities({"a": 0.25}, question="alignment") == 0
    dataset.set_propensities({"b": 1.0})
    assert dataset.pairs(["propensity"], question="alignment")["propensity"].to_pylist() == [0.25, 0.125, None]


def test_a_judge_without_votes_on_a_question_stands_in_with_its_overall_ones_and_people_do_not(prefs):
    judge = {"source": "judge", "pair_id": "a", "choice": "0"}
    prefs.append_votes(
        [VOTE, VOTE | {"question": "alignment", "choice": "1"}, judge | {"annotator_id": "clip"}]
        + [judge | {"annotator_id": "vlm"}, judge | {"annotator_id": "vlm", "question": "alignment", "choice": "1"}]
    )
    votes, stand_ins = votes_on(prefs, "alignment", ["annotator_id", "source", "choice"])
    assert stand_ins == ("clip",)
    assert sorted(map(str, votes.to_pylist())) == sorted(
        map(
            str,
            [
                {"annotator_id": "ana", "source": "human", "choice": "1"},
                {"annotator_id": "clip", "source": "judge", "choice": "0"},
                {"annotator_id": "vlm", "source": "judge", "choice": "1"},
            ],
        )
    )
    with pytest.raises(PalateError, match="no vote of .* answers 'alignmnt'.*alignment"):
        require_question(prefs, "alignmnt")


def test_questions_as_people_write_them():
    assert named_wording("alignment") == ("alignment", wording_of("alignment"))
    assert named_wording("humour: Which is funnier?") == ("humour", "Which is funnier?")
    assert named_wording("Which picture would you hang up?") == ("overall", "Which picture would you hang up?")
    assert named_wording("Which: left or right?")[0] == "Which"
    for empty in ("", " ", "humour:"):
        with pytest.raises(PalateError, match="is empty"):
            named_wording(empty)


def test_jsonl_has_a_question_per_line_and_the_option_names_the_others(tmp_path):
    both = {"prompt": "a", "generator_0": "m", "generator_1": "n", "choice": 1}
    lines = [both, both | {"question": "fidelity"}, both | {"choice": 0, "question": "overall"}, both | {"question": 5}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for _ in range(2):
        report = import_pairs("jsonl", [tmp_path / "a.jsonl"], tmp_path / "to", question="alignment")
    assert dict(report.skipped) == {"field of the wrong form": 1}
    dataset = open_dataset(tmp_path / "to")
    assert questions_of(dataset) == {"overall": 1, "alignment": 1, "fidelity": 1} and len(dataset) == 1
    assert palate.info(tmp_path / "to")["questions"] == {"overall": 1, "alignment": 1, "fidelity": 1}


def test_pick_a_pic_rows_of_two_questions_are_two_votes(tmp_path, picture):
    row = {"caption": "a", "jpg_0": picture(0), "jpg_1": picture(1), "label_0": 1.0, "label_1": 0.0, "user_id": 5}
    pq.write_table(
        pa.Table.from_pylist([row | {"question": name} for name in ("overall", "fidelity")]), tmp_path / "a.parquet"
    )
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "b.parquet")
    for question in (None, "alignment"):
        import_pairs("pickapic", [tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "to", question=question)
    assert questions_of(open_dataset(tmp_path / "to")) == {"overall": 1, "alignment": 1, "fidelity": 1}


def test_trl_rows_keep_their_question(tmp_path, picture):
    row = {"prompt": "a", "chosen": {"bytes": picture(0)}, "rejected": {"bytes": picture(1)}}
    rows = [
        row | {"question": "alignment"},
        row | {"chosen": row["rejected"], "rejected": row["chosen"], "question": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    import_pairs("trl", [tmp_path / "a.parquet"], tmp_path / "to")
    dataset = open_dataset(tmp_path / "to")
    assert questions_of(dataset) == {"overall": 1, "alignment": 1}
    said = [dataset.votes(["choice"], question=name).to_pylist()[0]["choice"] for name in ("overall", "alignment")]
    assert sorted(said) == ["0", "1"]


def test_imagerewarddbs_ratings_are_votes_on_alignment_and_fidelity(tmp_path):
    of_image = [("x.webp", 2, 3, 7), ("y.webp", 1, 5, 7), ("z.webp", 3, 1, 2)]  # rank, alignment, fidelity
    entries = [
        {"image_path": path, "prompt_id": "1", "prompt": "a", "rank": rank, "overall_rating": 4,
         "image_text_alignment_rating": alignment, "fidelity_rating": fidelity}
        for path, rank, alignment, fidelity in of_image
    ]  # fmt: skip
    entries += [{"prompt": "b", "generations": ["x.webp", "y.webp"], "ranking": [1, 2], "fidelity_rating": [3]}]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    report = import_pairs("rankings", [tmp_path / "a.json"], tmp_path / "to")
    assert report.pairs_added == 3 and dict(report.skipped) == {"ratings do not fit": 1}
    dataset = open_dataset(tmp_path / "to")
    names = {}
    for batch in dataset.iter_pairs(["pair_id", "image_0", "image_1"]):
        for row in batch.to_pylist():
            names[row["pair_id"]] = [row[f"image_{k}"]["path"].rsplit("/", 1)[1][0] for k in (0, 1)]

    def winners(question):
        votes = dataset.votes(question=question).to_pylist()
        return {"".join(sorted(names[v["pair_id"]])): "tie" if v["choice"] == "tie" else names[v["pair_id"]][int(v["choice"])] for v in votes}  # fmt: skip

    assert winners("overall") == {"xy": "y", "xz": "x", "yz": "y"}
    assert winners("alignment") == {"xy": "y", "xz": "x", "yz": "y"}
    assert winners("fidelity") == {"xy": "tie", "xz": "x", "yz": "y"}


def test_hpdv3_rows_name_their_models_and_the_first_path_is_preferred(tmp_path):
    entry = {"prompt": "a", "path1": "images/1.jpg", "path2": "images/2.jpg", "model1": "flux", "model2": "sd2", "confidence": 0.9}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps([entry]))
    import_pairs("rankings", [tmp_path / "a.json"], tmp_path / "to", question="aesthetics")
    dataset = open_dataset(tmp_path / "to")
    (vote,) = dataset.votes(question="aesthetics").to_pylist()
    (row,) = dataset.pairs().to_pylist()
    assert json.loads(row[f"generator_{vote['choice']}"])["model"] == "flux" and len(dataset.votes()) == 0


def test_agreement_of_people_is_within_a_question(prefs):
    prefs.append_votes([VOTE, VOTE | {"annotator_id": "bo"}])
    prefs.append_votes(
        [VOTE | {"annotator_id": name, "choice": "1", "question": "alignment"} for name in ("ana", "bo")]
    )
    told = palate.info(prefs)["human_agreement"]
    assert told["mean"] == 1.0 and told["pairs"] == 2 and VOTES.names[-1] == "question"
