"""What samples say of themselves: which model made them, of which weights, from which base, by which command, taught by whom."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluation.drawn import draw_samples
from reports.test_page import Reader
from safetensors.torch import load_file, save_file
from sampling.test_samples import QUICK, make_run
from tiny import PROMPTS, make_pipeline, refusal

import palate
from palate.backbones.folders import weights_hash
from palate.cli import compare as compare_command
from palate.cli import import_ as import_command
from palate.cli import report as report_command
from palate.cli import sample as sample_command
from palate.cli import score as score_command
from palate.data.dataset import PreferenceDataset
from palate.data.samples import Sampling, open_samples
from palate.evaluation.compare import compare
from palate.run.load import load_config, save_config
from palate.sampling.prompts import load_suite
from palate.sampling.provenance import learned_by_samples, learned_from
from palate.sampling.samples import sample


def taught(folder: Path, pipeline: Path, **changes) -> Path:
    """A run with adapters whose configuration has these keys, too: a reward, say."""
    make_run(folder, pipeline, lora=True)
    config = {"pretrained_model_name_or_path": str(pipeline), "dataset": "none", "output_dir": str(folder)}
    save_config(load_config({**config, **changes}), folder / "config.yaml")
    return folder


def stored(folder: Path) -> dict:
    return json.loads((folder / "samples.json").read_text())


def rewrite(folder: Path, **changes) -> None:
    (folder / "samples.json").write_text(json.dumps(stored(folder) | changes))


# What a model was trained on -------------------------------------------------------------------------------------------


def test_a_judge_of_training_is_known_from_any_directory_and_when_the_run_is_gone(
    pipeline_folder, tmp_path, monkeypatch
):
    (tmp_path / "project" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    taught(Path("runs/first"), pipeline_folder, method="spo", reward="brightness")
    taught(Path("runs/second"), pipeline_folder, start_from="runs/first")
    sample("runs/second", list(PROMPTS), Path("pictures"), QUICK)
    base = sample(pipeline_folder, list(PROMPTS), tmp_path / "base", QUICK)
    monkeypatch.chdir(tmp_path)
    assert learned_from("project/runs/second").names == {"brightness"}
    shutil.rmtree("project/runs")
    found = compare("project/pictures", against=base.folder, scorer=["brightness", "contrast"])
    assert (found.scorer, found.lost) == ("contrast", {})
    assert found.others[0].trained_on == ("pictures",)


def test_no_scorer_is_the_headline_where_nobody_can_say_what_a_model_was_trained_on(tmp_path, capsys):
    """As an older palate left them: only a path, and the run is not there any more."""
    draw_samples(tmp_path / "a", [200, 210, 190, 220] * 5, model="runs/gone")
    draw_samples(tmp_path / "b", [100] * 20)
    compare_command.main([str(tmp_path / "a"), "--against", str(tmp_path / "b"), "--scorer", "contrast"])
    told = capsys.readouterr().out
    assert "the model runs/gone was not found" in told and "No headline: it is not known whether a learned" in told
    assert "beats" not in told
    result = json.loads((tmp_path / "a" / "compare.json").read_text())
    assert result["headline"] is None and list(result["training_not_known"]) == ["a"]
    score_command.main([str(tmp_path / "a"), "--scorer", "contrast"])
    assert "not known what this model was trained on" in capsys.readouterr().out


def test_the_page_and_the_card_claim_nothing_where_the_training_is_not_known(pipeline_folder, tmp_path):
    run = taught(tmp_path / "run", pipeline_folder, start_from="runs/gone")
    draw_samples(run / "samples", [200, 210, 190, 220] * 5, model=str(run))
    draw_samples(run / "base-samples", [100] * 20, model="world")
    page = palate.report(run, scorer=["brightness", "contrast"], card=True)
    text = Reader(page.read_text()).text
    assert "No verdict: it is not known whether run learned from brightness" in text and "no model here was" not in text
    assert "the run runs/gone, from which run started was not found" in text and "better than base" not in text
    card = (run / "model" / "README.md").read_text()
    assert "not known what run was trained on" in card and "model-index" not in card and "was not trained" not in card


def test_a_dataset_that_is_gone_hides_who_stands_behind_a_name_but_not_behind_a_judges_own(pipeline_folder, tmp_path):
    dataset = PreferenceDataset.create(tmp_path / "prefs", "prefs")
    dataset.add_provenance({"judge": "pickscore", "annotator": "mine"})
    named = taught(tmp_path / "a", pipeline_folder, method="dedpo", judge="mine", dataset="prefs")  # seen from the run
    plain = taught(tmp_path / "b", pipeline_folder, method="dedpo", judge="pickscore", dataset="prefs")
    assert learned_from(named).names == {"mine", "pickscore"} and not learned_from(named).lost
    shutil.rmtree(dataset.path)
    assert "the dataset prefs" in learned_from(named).lost[0] and learned_from(named).names == {"mine"}
    assert (learned_from(plain).names, learned_from(plain).lost) == ({"pickscore"}, ())


def test_an_exported_pipeline_knows_what_it_was_trained_on(pipeline_folder, tmp_path):
    run = taught(tmp_path / "run", pipeline_folder, method="spo", reward="brightness")
    exported = palate.export(run, "fused", tmp_path / "aligned", whole_pipeline=True)
    shutil.rmtree(run)
    made = sample(exported, list(PROMPTS), tmp_path / "pictures", QUICK)
    assert learned_by_samples(made).names == {"brightness"}
    further = taught(tmp_path / "further", exported, method="spo", reward="contrast")
    assert learned_from(further).names == {"brightness", "contrast"}
    again = palate.export(further, "fused", tmp_path / "again", whole_pipeline=True)
    assert json.loads((again / "trained_on.json").read_text())["trained_on"] == ["brightness", "contrast"]


# Which base, which shape ----------------------------------------------------------------------------------------------


def test_runs_of_different_base_models_are_not_compared_with_one_base(pipeline_folder, tmp_path):
    other, copy = make_pipeline(tmp_path / "other", seed=1), shutil.copytree(pipeline_folder, tmp_path / "copy")
    runs = [make_run(tmp_path / f"run-{k}", base, lora=True) for k, base in enumerate((pipeline_folder, other, copy))]
    for run in runs:
        sample(run, list(PROMPTS), run / "samples", QUICK)
    told = refusal(lambda: compare(runs[:2], scorer="brightness"))
    assert str(pipeline_folder) in told and str(other) in told and "--against" in told
    assert not (runs[0] / "base-samples").exists()
    with pytest.raises(palate.PalateError, match="there is no base for both"):
        compare([runs[0], runs[1] / "samples"], scorer="brightness")
    assert compare(runs[1], against=runs[0], scorer="brightness").rows[0].win.n == 6  # the remedy
    assert len(compare([runs[0], runs[2]], scorer="brightness").rows) == 2  # a copy is the same base
    pinned = replace(load_config(runs[2] / "config.yaml"), pretrained_model_name_or_path=str(pipeline_folder), revision="1f2e3d")  # fmt: skip
    save_config(pinned, runs[2] / "config.yaml")
    with pytest.raises(palate.PalateError, match="at 1f2e3d: there is no base for both"):
        compare([runs[0], runs[2]], scorer="brightness")


def test_samples_of_other_sizes_are_no_pairs_and_old_ones_need_not_say(pipeline_folder, tmp_path):
    a, b = (sample(pipeline_folder, list(PROMPTS), tmp_path / name, QUICK) for name in "ab")
    assert (a.settings["latent_shape"], a.settings["picture_size"]) == ([4, 8, 8], [64, 64])
    settings = stored(b.folder)["settings"]
    for key, value in (("picture_size", [128, 64]), ("latent_shape", [16, 8, 8])):
        rewrite(b.folder, settings=settings | {key: value})
        with pytest.raises(palate.PalateError, match=f"different: {key}"):
            compare(a.folder, against=b.folder, scorer="brightness")
    rewrite(b.folder, settings={key: settings[key] for key in settings if key not in ("latent_shape", "picture_size")})
    for one, two in ((a, b), (b, a)):
        assert compare(one.folder, against=two.folder, scorer="brightness").rows[0].win.n == 6
    b.paths[0].unlink()
    assert sample(pipeline_folder, list(PROMPTS), b.folder, QUICK).paths[0].exists()  # and goes on


def test_samples_of_a_pinned_base_and_of_an_older_palate_become_pairs(tmp_path, capsys):
    pinned, older = (draw_samples(tmp_path / name, [10, 20, 30], model=name) for name in ("pinned", "older"))
    rewrite(pinned.folder, settings=pinned.settings | {"revision": "1f2e3d", "picture_size": [8, 8], "latent_shape": [4, 1, 1]})  # fmt: skip
    import_command.main(["samples", str(pinned.folder), str(older.folder), "--to", str(tmp_path / "contest")])
    (first, *_) = pairs = PreferenceDataset.open(tmp_path / "contest").pairs(["generator_0", "generator_1"]).to_pylist()
    assert len(pairs) == 3
    made = {one["model"]: one for one in map(json.loads, first.values())}
    assert made["pinned"]["revision"] == "1f2e3d" and "picture_size" not in made["pinned"]


# Which weights --------------------------------------------------------------------------------------------------------


def test_pictures_of_a_model_that_was_trained_further_are_not_passed_off_as_its_own(pipeline_folder, tmp_path, capsys):
    run = make_run(tmp_path / "run", pipeline_folder, lora=True, seed=1)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    command = [str(run), "--prompts", str(tmp_path / "prompts.txt"), "--steps", "2", "--guidance", "2"]
    sample_command.main([*command, "--base"])
    sample_command.main(command)
    assert compare(run, scorer="contrast").older == ()
    make_run(run, pipeline_folder, lora=True, seed=2)
    told = refusal(lambda: sample_command.main(command))
    assert "older weights" in told and "Delete that folder" in told and str(run / "samples") in told
    capsys.readouterr()
    compare_command.main([str(run), "--scorer", "contrast"])
    assert "WARNING: The pictures of run are of older weights" in capsys.readouterr().out
    score_command.main([str(run), "--scorer", "contrast"])
    assert capsys.readouterr().out.count("of older weights") == 1  # not the base's
    report_command.main([str(run), "--scorer", "contrast", "--card"])
    assert "WARNING: The pictures of run are of older weights" in capsys.readouterr().out
    for page in (run / "report.html", run / "model" / "README.md"):
        assert "The pictures of run are of older weights" in page.read_text()
    assert "model-index" not in (run / "model" / "README.md").read_text()
    shutil.rmtree(run / "samples")
    sample_command.main(command)
    assert compare(run, scorer="contrast").older == ()


def test_pictures_guided_by_a_negative_run_that_was_trained_further_are_old_too(pipeline_folder, tmp_path):
    run, npo = (make_run(tmp_path / name, pipeline_folder, lora=True) for name in ("run", "npo"))
    guided = replace(QUICK, negative=str(npo))
    sample(run, list(PROMPTS), tmp_path / "pictures", guided)
    make_run(npo, pipeline_folder, lora=True, seed=3)
    assert f"{npo} was trained further" in refusal(lambda: sample(run, list(PROMPTS), tmp_path / "pictures", guided))


def test_the_hash_of_weights_follows_the_tensors_and_not_the_order_of_a_header(tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    tensors = {"a": torch.arange(3000.0), "b": torch.ones(2000)}
    save_file(tensors, file, metadata={"format": "pt", "alpha": "8"})
    first = weights_hash([tmp_path])
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + length])
    turned = json.dumps(dict(reversed(header.items()))).replace(" ", "").encode().ljust(length)
    assert turned != file.read_bytes()[8 : 8 + length]
    file.write_bytes(file.read_bytes()[:8] + turned + file.read_bytes()[8 + length :])
    assert weights_hash([tmp_path]) == first
    for parts in (64, 4):  # the file as a whole, and as one that is too large for it
        monkeypatch.setattr("palate.backbones.folders.PARTS", parts)
        monkeypatch.setattr("palate.backbones.folders.PART", 1 << 20 if parts == 64 else 1000)
        before = weights_hash([tmp_path])
        save_file({name: tensor + 1e-3 for name, tensor in load_file(file).items()}, file, metadata={"alpha": "8"})
        moved = weights_hash([tmp_path])
        save_file(load_file(file), file, metadata={"alpha": "4"})
        assert len({before, moved, weights_hash([tmp_path])}) == 3
    assert weights_hash([tmp_path / "nothing"]) is None


# Going on -------------------------------------------------------------------------------------------------------------


def test_an_interrupted_report_goes_on_with_the_samples_of_the_base(pipeline_folder, tmp_path):
    run = make_run(tmp_path / "run", pipeline_folder, lora=True)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    suite = load_suite(tmp_path / "prompts.txt", limit=2)
    sample(run, suite, run / "samples", QUICK)
    palate.report(run, scorer="contrast")
    base = open_samples(run / "base-samples")
    assert base.suite == suite.source == "prompts.txt, limit 2"
    before = base.paths[1].read_bytes()
    base.paths[1].unlink()  # as if killed before that picture
    palate.report(run, scorer="contrast")
    assert base.paths[1].read_bytes() == before
    base.paths[1].unlink()
    rewrite(base.folder, settings=base.settings | {"seed": 7})  # begun otherwise: not gone on with
    with pytest.raises(palate.PalateError, match="were not sampled alike .different: seed"):
        compare(run, scorer="contrast")


def test_missing_pictures_name_the_command_that_goes_on(pipeline_folder, tmp_path):
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    command = [str(pipeline_folder), "--prompts", str(tmp_path / "p.txt"), "--to", str(tmp_path / "a"), "--steps", "2"]
    sample_command.main(command)
    open_samples(tmp_path / "a").paths[0].unlink()
    told = refusal(lambda: open_samples(tmp_path / "a").images())
    assert f"goes on: palate sample {' '.join(command)}" in told


def test_going_on_does_not_depend_on_how_a_path_is_spelled(pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("run"), pipeline_folder, lora=True)
    make_run(Path("npo"), pipeline_folder, lora=True, seed=1)

    def goes_on(model: str, folder: str, negative: str | None = None) -> bool:
        path = Path(folder) / "000003.png"
        path.unlink(missing_ok=True)
        sample(model, list(PROMPTS), Path(folder), replace(QUICK, negative=negative))
        return path.exists()

    assert goes_on("run", "pictures", "npo") and goes_on("run", "run/samples")
    for run, npo in (("run/", "./npo"), (str(tmp_path / "run"), "npo/"), ("./run", str(tmp_path / "npo"))):
        assert goes_on(run, "pictures", npo) and goes_on(run, "run/samples")
    assert stored(Path("pictures"))["settings"]["model"] == "run"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert goes_on("../run", "../pictures", "../npo")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere" / "moved")
    assert goes_on("moved", "moved/samples")
    make_run(Path("other"), pipeline_folder, lora=True, seed=2)
    with pytest.raises(palate.PalateError, match="different: model"):
        goes_on("other", "moved/samples")
    with pytest.raises(palate.PalateError, match="different: model, negative"):
        sample("other", list(PROMPTS), tmp_path / "pictures", replace(QUICK, negative="moved"))


# The commands ---------------------------------------------------------------------------------------------------------


def test_the_page_and_the_card_list_every_command_without_places_and_secrets(pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("run"), pipeline_folder, lora=True)
    Path("run/command.txt").write_text("palate train dpo.yaml --seed 3\n")
    Path("prompts.txt").write_text("\n".join(PROMPTS))
    prompts = ["--prompts", str(tmp_path / "prompts.txt"), "--steps", "2", "--guidance", "2"]
    sample_command.main(["run", *prompts])
    sample_command.main(["run", *prompts, "--base"])  # the run's were there: of these the first command is kept
    score_command.main(["run", "--scorer", "contrast", "--set", "api_key=abc"])
    score_command.main(["run", "--scorer", "contrast", "--json"])
    compare_command.main(["run", "--scorer", "contrast"])
    report_command.main(["run", "--scorer", "contrast", "--card"])
    origin = stored(Path("run/samples"))["origin"]
    assert origin["palate"] == palate.__version__ and origin["command"].startswith("palate sample run --prompts /")
    assert json.loads(Path("run/samples/scores.json").read_text())["contrast 1"]["palate"] == palate.__version__
    assert json.loads(Path("run/compare.json").read_text())["command"] == "palate compare run --scorer contrast"
    commands = [
        "palate train dpo.yaml --seed 3",
        "palate sample run --prompts prompts.txt --steps 2 --guidance 2",
        "palate sample run --prompts prompts.txt --steps 2 --guidance 2 --base",
        "palate score run --scorer contrast --set api_key=…",
        "palate compare run --scorer contrast",
        "palate report run --scorer contrast --card",
    ]
    card = Path("run/model/README.md").read_text()
    block = card[card.index("## The exact commands") :].split("```")[1]
    assert [line for line in block.splitlines()[1:] if line] == [
        commands[0],
        f"# in the folder {tmp_path.name}",
        *commands[1:],
    ]
    text = Reader(Path("run/report.html").read_text()).text
    listed = text[text.index("The exact commands (6)") :]
    assert sorted(commands, key=listed.index) == commands
    for told in (card, text):
        assert "api_key=abc" not in told and str(tmp_path) not in told and "--json" not in told


def test_without_a_verb_the_command_is_that_of_the_process(pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["study.py", "--seed", "1"])
    made = sample(pipeline_folder, list(PROMPTS), tmp_path / "s", QUICK)
    assert made.origin["command"] == "study.py --seed 1" == open_samples(made.folder).origin["command"]


# Prompts --------------------------------------------------------------------------------------------------------------


def test_a_prompt_that_comes_again_in_a_list_is_left_out_and_counted(pipeline_folder, tmp_path, capsys):
    made = sample(pipeline_folder, [*PROMPTS, PROMPTS[0], PROMPTS[0]], tmp_path / "s", Sampling(steps=1, guidance=1.0))
    assert made.prompts == list(PROMPTS) and len(made.paths) == 3 and not (tmp_path / "s" / "000003.png").exists()
    assert "prompts: 3 of 5 (left out: 2 repeated) from a list" in capsys.readouterr().out
    again = sample(pipeline_folder, list(PROMPTS), tmp_path / "s", Sampling(steps=1, guidance=1.0))
    assert again.settings == made.settings and capsys.readouterr().out == ""
