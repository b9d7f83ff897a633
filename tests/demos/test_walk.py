"""The tutorial's way, small: pairs of the world, a plan, simulated people, an export, an audit that writes a configuration."""

import json

import pytest
import yaml
from web.served import People

from palate.cli import audit, import_, votes
from palate.data.dataset import PreferenceDataset, open_dataset
from palate.data.store import default_store, live_votes
from palate.demos.dataset import measure_pairs
from palate.demos.simulate import simulate_votes
from palate.errors import PalateError
from palate.run.load import load_config
from palate.world.voters import VOTERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk") / "prefs"
    import_.main(["world", "--pairs", "24", "--voters", "biased-judge", "--to", str(folder)])
    return folder


def test_the_way_from_pairs_to_a_configuration(folder, tmp_path, capsys):
    import_.main(["world", "--pairs", "24", "--voters", "biased-judge", "--to", str(folder), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["pairs_added"], told["pairs_known"], told["votes_added"], told["votes_known"]) == (0, 24, 0, 24)
    dataset = open_dataset(folder)
    assert set(dataset.votes()["annotator_id"].to_pylist()) == {"biased-judge"}
    with pytest.raises(PalateError, match="Label first"):
        votes.main(["simulate", str(folder)])

    people = People(dataset, store=default_store(folder), budgets=(20,), repeats=0.3)
    votes.main(["simulate", str(folder), "--voter", "majority", "--count", "5"])
    assert "5 simulated votes of majority; 5 of 20 drawn pairs have one" in capsys.readouterr().out
    done = simulate_votes(people.engine, dataset)
    assert (done.answered, done.drawn) == (20, 20) and done.votes > 15  # repetitions came too
    first = {v["pair_id"]: v["choice"] for v in live_votes(people.engine) if v["slot"] == "first"}
    shown_0, shown_1, ids = measure_pairs(dataset)
    prefers_0 = dict(zip(ids, VOTERS["majority"].vote(shown_0, shown_1, 0)[0], strict=True))
    assert first == {pair_id: "0" if prefers_0[pair_id] else "1" for pair_id in first}
    assert {v["order_shown"] for v in live_votes(people.engine)} == {"01", "10"}

    votes.main(["export", str(folder)])
    config = tmp_path / "train.yaml"
    audit.main([str(folder), "--config", str(config), "--out", str(tmp_path / "audit.html")])
    read = load_config(config)
    assert (read.pretrained_model_name_or_path, read.dataset) == ("world", str(folder))
    advised = yaml.safe_load(config.read_text())
    capsys.readouterr()
    audit.main([str(folder), "--json"])
    assert json.loads(capsys.readouterr().out)["recommendation"]["configuration"].items() <= advised.items()
    with pytest.raises(PalateError, match="is there already"):
        audit.main([str(folder), "--config", str(config)])


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["world", "file.json"], "has no sources"),
        (["world", "--voters", "bob"], "'bob' is none of majority"),
        (["world", "--pairs", "0"], "at least 1"),
        (["jsonl"], "no sources given"),
    ],
)
def test_an_import_of_the_world_that_cannot_be_is_one_line(arguments, said, tmp_path):
    with pytest.raises(PalateError, match=said):
        import_.main([*arguments, "--to", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_only_people_of_the_world_are_simulated_and_only_on_its_pictures(folder, pair, tmp_path):
    people = People(open_dataset(folder), store=f"sqlite:///{tmp_path / 'other.sqlite'}")
    with pytest.raises(PalateError, match="majority, hesitant, minority"):
        simulate_votes(people.engine, people.dataset, "biased-judge")
    foreign = PreferenceDataset.create(tmp_path / "foreign", name="foreign")
    foreign.add_pairs([pair("a")])
    with pytest.raises(PalateError, match="the world measures pictures of"):
        simulate_votes(People(foreign).engine, foreign)
