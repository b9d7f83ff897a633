"""The model card: the hub's own parser reads it, its numbers are the comparison's, and it tells no secret."""

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import ModelCard
from reports.test_runs import make_run
from tiny import make_labelled_dataset
from training.test_train import settings

import palate
from palate.cli import report as report_verb
from palate.command import said_as
from palate.data.dataset import PreferenceDataset
from palate.data.samples import Sampling
from palate.errors import PalateError
from palate.evaluation.compare import compare
from palate.reports.public import public, public_command
from palate.reports.runs import report
from palate.sampling.provenance import Learned


@pytest.fixture
def run(tmp_path) -> Path:
    """A run without training whose base model is one of the hub's, on 20 prompts."""
    dataset = make_labelled_dataset(tmp_path / "prefs")
    base = list(range(60, 100))
    made = make_run(tmp_path / "run", [grey + 5 for grey in base], base, method="dedpo", judge="bright", dataset=str(dataset.path),
                    lora={"rank": 4}, pretrained_model_name_or_path="owner/model")  # fmt: skip
    (made / "model").mkdir()
    (made / "model" / "pytorch_lora_weights.safetensors").touch()
    secret = f"palate train {tmp_path}/my secrets/x.yaml --human-annotators ana bo --hub-token hf_abcdefghijklmnop --report-to none"
    (made / "command.txt").write_text(secret.replace("my secrets", "configs") + "\n")
    return made


def card(run: Path) -> ModelCard:
    return ModelCard.load(run / "model" / "README.md")


def test_the_card_of_a_trained_run_is_read_by_the_hubs_parser(pipeline_folder, dataset, tmp_path, capsys):
    shutil.copytree(pipeline_folder, tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n# Base\n")
    given = settings(tmp_path / "base", dataset, tmp_path / "run", lora={"rank": 4}, max_train_steps=2)
    run = palate.train(given | {"method": "dedpo", "judge": "bright", "correction": "none"}).path
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\na green star\n")
    found = compare(str(run), prompts=prompts, scorer="sharpness", sampling=Sampling(steps=2, guidance=2.0))
    capsys.readouterr()
    report_verb.main([str(run), "--scorer", "sharpness", "--card"])
    assert f"card: {run / 'model' / 'README.md'}" in capsys.readouterr().out
    data = card(run).data
    assert (data.library_name, data.license, data.base_model, data.datasets) == (
        "diffusers", "creativeml-openrail-m", None, ["tests"],
    )  # fmt: skip
    assert {"palate", "dedpo", "lora", "text-to-image"} <= set(data.tags)
    text = card(run).content
    assert str(tmp_path) not in text and "ana" not in text.split() and "| human | person 1 | 8 | 8 |" in text
    assert "prompts.txt: 3 prompts, sha256" in text and "pipeline.load_lora_weights" in text
    win = found.rows[0].win
    assert f"| {win.n} | {win.test_words} | {win.prompts} | {win.wins} / {win.ties} / {win.losses} |" in text
    again = ModelCard(str(card(run)))
    assert again.data.to_dict() == data.to_dict()
    palate.train(run / "config.yaml")  # finished already: the model is written anew, and the card stays
    assert card(run).content == text


def test_the_index_holds_the_evidence_and_nothing_else(run, monkeypatch):
    monkeypatch.setattr("palate.reports.runs.statistic_names", lambda scorer: scorer != "contrast")
    report(run, scorer=["brightness", "contrast"], card=True)
    (result,) = card(run).data.eval_results  # brightness describes pictures
    win = compare(run, scorer="contrast").rows[0].win
    assert (result.metric_type, result.metric_value) == ("win_rate", round(win.rate, 4))
    told = result.metric_args
    assert (told["low_95"], told["high_95"], told["n"]) == (round(win.low, 4), round(win.high, 4), 40)
    assert "20 prompts, sha256" in result.dataset_name
    monkeypatch.setattr("palate.evaluation.compare.learned_by_samples", lambda _: Learned(frozenset({"contrast"})))
    report(run, scorer="contrast", card=True)
    assert card(run).data.eval_results is None
    assert "No verdict" in card(run).text and "used in training: no evidence" in card(run).text


def test_base_and_license_come_from_what_is_on_this_machine(run, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    report(run, scorer="contrast", card=True)
    data = card(run).data
    assert (data.base_model, data.license) == ("owner/model", "unknown")
    assert data.to_dict()["base_model_relation"] == "adapter" and "license is not known here" in card(run).text
    snapshot = cache / "models--owner--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / "README.md").write_text(
        "---\nlicense: other\nlicense_name: some-terms\nlicense_link: LICENSE.md\n---\n"
    )
    report(run, scorer="contrast", card=True)
    data = card(run).data
    assert (data.license, data.license_name, data.license_link) == ("other", "some-terms", "LICENSE.md")
    assert "license is not known" not in card(run).text


def test_a_relative_folder_is_no_model_of_the_hub_wherever_the_card_is_written(run, tmp_path, monkeypatch):
    (tmp_path / "models" / "secret-sd").mkdir(parents=True)
    (tmp_path / "models" / "secret-sd" / "README.md").write_text("---\nlicense: openrail++\n---\n")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("owner/model", "models/secret-sd"))
    (run / "command.txt").write_text("palate train x.yaml --pretrained-model-name-or-path models/secret-sd\n")
    for here in (tmp_path, run.parent.parent):
        monkeypatch.chdir(here)
        report(run, scorer="contrast", card=True)
        data = card(run).data
        assert (data.base_model, data.license) == (None, "openrail++")
        told, _, commands = card(run).content.partition("## The exact commands")
        assert "models/secret-sd" not in told and "| base model | secret-sd |" in told
        assert "palate train x.yaml --pretrained-model-name-or-path models/secret-sd\n" in commands  # as typed


def test_no_place_no_person_and_no_secret_is_told(run, tmp_path):
    command = f"palate report {run} --votes '{tmp_path}/a b/contest'"
    with said_as(command):
        report(run, scorer="contrast", card=True)
    text = card(run).content
    for secret in (str(tmp_path), "hf_", "ana", "bo --", "contest'"):
        assert secret not in text, secret
    assert "palate train x.yaml --human-annotators … … --hub-token … --report-to none" in text
    assert "palate report run --votes contest" in text and "| dataset | prefs |" in text
    people = PreferenceDataset.open(tmp_path / "prefs").votes(["annotator_id"])["annotator_id"].to_pylist()
    assert "ana" in people and "| human | person 1 | 8 | 8 |" in text and "| judge | bright | 24 | 24 |" in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("see /home/me/x/y.yaml, and ~/z", "see y.yaml, and z"),
        ("self:/data/runs/dedpo", "self:dedpo"),
        ("model=/data/w.bin C:\\Users\\me\\w.bin", "model=w.bin w.bin"),
        ("file:///etc/x and https://huggingface.co/a/b", "x and https://huggingface.co/a/b"),
        ("runs/dedpo, 3 / 0 / 1, and/or, 1/2", "runs/dedpo, 3 / 0 / 1, and/or, 1/2"),
        ("postgresql://me:secret@host/votes", "postgresql://host/votes"),
        ("hf_abcdefghij sk-abcdefghijkl ghp_abcdefghijkl", "… … …"),
    ],
)
def test_texts_for_everybody(text, told):
    assert public(text) == told


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("palate train '/a b/c d.yaml' --beta 2", "palate train 'c d.yaml' --beta 2"),
        ("palate annotate x --set api_key=abc --set model=/w/y", "palate annotate x --set api_key=… --set model=y"),
        ("palate x --api-key abc --n 1", "palate x --api-key … --n 1"),
        ("/venv/bin/palate train it's", "palate train 'it'\"'\"'s'"),
    ],
)
def test_commands_for_everybody(command, told):
    assert public_command(command) == told


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("palate train /work/study/configs/a.yaml", "palate train configs/a.yaml"),
        ("palate train '/work/study/a b/c.yaml' --dataset=/work/study/prefs", "palate train 'a b/c.yaml' --dataset=prefs"),
        ("palate annotate prefs --judge self:/work/study/runs/a", "palate annotate prefs --judge self:runs/a"),
        ("palate score /work/study --scorer x", "palate score . --scorer x"),
        ("palate train ../other/a.yaml", "palate train ../other/a.yaml"),
        ("palate train /work/studying/a.yaml", "palate train a.yaml"),  # another folder, which nobody is told
    ],
)  # fmt: skip
def test_commands_can_be_run_in_the_folder_where_they_were_typed(command, told):
    assert public_command(command, "/work/study") == told


def test_an_edited_card_is_left_alone_and_a_run_without_a_model_gets_one_line(run):
    report(run, scorer="contrast", card=True)
    report(run, scorer="contrast", card=True)  # as it was written: may be written again
    path = run / "model" / "README.md"
    path.write_text(path.read_text().replace("## Limits", "## Limits\n\n- And I know one more."))
    page = (run / "report.html").stat().st_mtime_ns
    with pytest.raises(PalateError, match="README.md: was written or edited by hand, and is left alone"):
        report(run, scorer="contrast", card=True)
    assert "I know one more" in path.read_text() and (run / "report.html").stat().st_mtime_ns == page
    shutil.rmtree(run / "model")
    with pytest.raises(PalateError, match="has no model yet"):
        report(run, scorer="contrast", card=True)
