import io
import shutil

import numpy as np
import pytest
import torch
import yaml
from judges.test_annotate import votes_of
from PIL import Image, ImageOps
from tiny import make_labelled_dataset

from palate.backbones import load_backbone
from palate.cli.annotate import main
from palate.data.dataset import PreferenceDataset
from palate.demos.dataset import make_dataset
from palate.errors import PalateError
from palate.judges.annotate import annotate
from palate.judges.base import Pair
from palate.judges.weights import content_hash
from palate.labels.votes import folds_of
from palate.network.model import load_trained
from palate.objectives.logit import denoising_error, logit
from palate.run.votes_used import FILE, votes_used
from palate.training.draws import draws
from palate.training.implicit_judge import load_any_judge
from palate.training.self_judge import mean_of_unseen, seen_by
from palate.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory, pipeline_folder):
    from palate.run.load import load_config

    folder = tmp_path_factory.mktemp("runs")
    dataset = make_labelled_dataset(folder / "data", pairs=8, labelled=8)
    config = load_config(
        {"pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path), "output_dir": str(folder / "run"),
         "method": "dpo", "max_train_steps": 3, "train_batch_size": 2, "learning_rate": 1e-3, "beta": 50.0, "lora": {"rank": 4}}
    )  # fmt: skip
    return train(config).path, dataset, config


def pairs_of(dataset, count: int) -> list[Pair]:
    rows = [row for batch in dataset.iter_pairs() for row in batch.to_pylist()][:count]
    images = [[Image.open(io.BytesIO(row[f"image_{k}"]["bytes"])).convert("RGB") for k in (0, 1)] for row in rows]
    return [Pair(row["pair_id"], row["prompt"], *two) for row, two in zip(rows, images, strict=True)]


@torch.no_grad()
def test_the_difference_of_scores_is_the_logit_averaged_over_draws(run):
    folder, dataset, config = run
    pairs = pairs_of(dataset, 3)
    scores = load_any_judge(f"self:{folder}", draws=2, seed=5, in_sample=True, device="cpu").vote(pairs)
    base, other = (load_backbone(config.pretrained_model_name_or_path) for _ in range(2))
    policy = load_trained(other, folder / "model").eval()
    reference = base.network.eval()
    expected = []
    for pair in pairs:
        z = []
        for k in range(2):
            errors = []
            for image in (pair.image_0, pair.image_1):
                fitted = ImageOps.fit(image, (base.resolution,) * 2, Image.Resampling.LANCZOS)
                x = torch.from_numpy(np.asarray(fitted, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
                latent = base.encode_images(x)
                drawn = draws(5, [pair.pair_id], [f"judge {k}"], tuple(latent.shape[1:]), base.num_timesteps)
                noisy = base.add_noise(latent, drawn.noise, drawn.timestep)
                target, text = (
                    base.regression_target(latent, drawn.noise, drawn.timestep),
                    base.encode_prompts([pair.prompt]),
                )
                errors.append(
                    [
                        denoising_error(base.predict(net, noisy, drawn.timestep, text), target)
                        for net in (policy, reference)
                    ]
                )
            (e0, r0), (e1, r1) = errors
            z.append(float(logit(e0, e1, r0, r1, config.beta)))
        expected.append(np.mean(z))
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(scores[:, 0] - scores[:, 1], expected, rtol=1e-2, atol=1e-5)


def test_swapping_mirrors_and_batches_do_not_matter(run):
    folder, dataset, _ = run
    pairs = pairs_of(dataset, 4)
    judge = load_any_judge(f"self:{folder}", draws=2, in_sample=True, device="cpu")
    scores = judge.vote(pairs)
    np.testing.assert_allclose(judge.vote([pair.swapped() for pair in pairs]), scores[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(np.concatenate([judge.vote([pair]) for pair in pairs]), scores, atol=1e-5)


def test_it_votes_under_the_name_of_its_run_on_no_pair_whose_human_vote_it_was_trained_on(run, dataset, capsys):
    folder, _, _ = run  # which was trained on votes on p000 to p007
    main([str(dataset.path), "--judge", f"self:{folder}", "--set", "draws=1", "--device", "cpu"])
    votes = votes_of(dataset, f"self:{folder.name}")
    assert set(votes) == {f"p{i:03}" for i in range(8, 24)}
    assert "8 left out, its training saw their human votes" in capsys.readouterr().out
    settings = {"draws": 1, "device": "cpu", "in_sample": True}
    with pytest.raises(PalateError, match="--name"):  # votes of another kind under the same id would be averaged
        annotate(dataset, f"self:{folder}", load=load_any_judge, settings=settings)
    report = annotate(dataset, f"self:{folder}", load=load_any_judge, settings=settings, annotator="all of them")
    assert (report.votes, report.in_sample) == (24, 0)


def test_where_nothing_is_left_to_judge_the_remedy_is_told(run):
    folder, dataset, _ = run
    with pytest.raises(PalateError, match=r"all 8 pairs .*self:CONFIG.yaml.*in_sample=true"):
        annotate(dataset, f"self:{folder}", load=load_any_judge, settings={"device": "cpu"})


def test_a_run_that_does_not_say_what_it_saw_is_no_judge_until_its_command_says_it(run, dataset):
    folder, _, config = run
    said = (folder / FILE).read_bytes()
    (folder / FILE).unlink()
    with pytest.raises(PalateError, match="does not say which human votes"):
        annotate(dataset, f"self:{folder}", load=load_any_judge, settings={"device": "cpu"})
    before = content_hash(folder / "model")
    train(config)
    assert (folder / FILE).read_bytes() == said and content_hash(folder / "model") == before


def test_other_draws_or_another_seed_are_another_judge(run):
    folder, _, config = run
    one = load_any_judge(f"self:{folder}", device="cpu").settings
    assert one["beta"] == config.beta
    others = [
        load_any_judge(f"self:{folder}", **other).settings for other in ({"draws": 3}, {"seed": 1}, {"in_sample": True})
    ]
    assert one not in others


def test_a_folder_that_is_no_finished_run_is_one_clear_line(tmp_path, run):
    with pytest.raises(PalateError, match="not a finished run"):
        load_any_judge(f"self:{tmp_path}")
    folder, _, _ = run
    with pytest.raises(PalateError, match="at least 1"):
        load_any_judge(f"self:{folder}", draws=0)


def test_the_mean_is_over_those_who_did_not_see_the_pair():
    seen = seen_by([frozenset("a"), frozenset("b"), frozenset("bc")], ["a", "b", "c", "d"])
    seen[:, 2] = True  # all have
    values = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(mean_of_unseen(values, seen), [6, 1, np.nan, 7])
    scores = np.stack([values, -values], axis=-1)
    np.testing.assert_array_equal(mean_of_unseen(scores, seen)[:, 1], [-6, -1, np.nan, -7])


# --- fold runs, on the small world -----------------------------------------------------------------------------------


def small_world(folder, whole, turned=()):
    """The pairs of `whole` with eight of its human votes, those on the pairs `turned` the other way round."""
    dataset = PreferenceDataset.create(folder / "prefs", name="small world")
    dataset.add_pairs(row for batch in whole.iter_pairs() for row in batch.to_pylist())
    people = [vote for vote in whole.votes().to_pylist() if vote["source"] == "human"][:8]
    for vote in people:
        if vote["pair_id"] in turned:
            vote["choice"] = {"0": "1", "1": "0"}[vote["choice"]]
    dataset.append_votes(people)
    return dataset, [vote["pair_id"] for vote in people]


def configured(folder, dataset, **changes):
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {"pretrained_model_name_or_path": "world", "dataset": str(dataset.path), "output_dir": str(folder / "run"), "beta": 500.0,
             "learning_rate": 1e-3, "train_batch_size": 2, "max_train_steps": 4, "report_to": "none", "lora": {"rank": 4}, **changes}
        )
    )  # fmt: skip
    return path


SETTINGS = {"draws": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A small world with the votes of fold runs on all of its pairs."""
    folder = tmp_path_factory.mktemp("world")
    dataset, labelled = small_world(folder, make_dataset(folder / "whole", pairs=12))
    report = annotate(dataset, f"self:{configured(folder, dataset)}", load=load_any_judge, settings=SETTINGS)
    assert (report.annotator, report.votes, report.in_sample) == ("self:run", 12, 0)
    return folder, dataset, labelled


def test_no_vote_on_a_pair_depends_on_its_own_human_vote(judged, tmp_path):
    """Turn one human vote around and train the folds again: its own pair's vote stays, those of the other fold change."""
    folder, dataset, labelled = judged
    turned, _ = small_world(tmp_path, dataset, turned=labelled[:1])
    annotate(turned, f"self:{configured(tmp_path, turned)}", load=load_any_judge, settings=SETTINGS)
    before, after = votes_of(dataset, "self:run"), votes_of(turned, "self:run")
    same = {pair for pair in before if before[pair]["score_0"] == after[pair]["score_0"]}
    prompts = dict(zip(*dataset.pairs(columns=["pair_id", "prompt"]).to_pydict().values(), strict=True))
    fold = dict(zip(prompts, folds_of(list(prompts.values()), 2, 0), strict=True))
    assert same == {pair for pair in labelled if fold[pair] == fold[labelled[0]]} and labelled[0] in same
    assert len(same) < len(labelled)


def test_a_pair_without_a_human_vote_is_judged_by_the_mean_of_all_folds(judged):
    folder, dataset, labelled = judged
    votes = votes_of(dataset, "self:run")
    folds = [folder / f"run/self-judge/fold-{k}" for k in (0, 1)]
    first, second = (votes_used(fold) for fold in folds)
    assert not first & second and first | second == set(labelled)
    pairs = pairs_of(dataset, 12)
    judges = [load_any_judge(f"self:{fold}", in_sample=True, **SETTINGS) for fold in folds]
    scores = [np.concatenate([judge.vote(pairs[:8]), judge.vote(pairs[8:])]) for judge in judges]  # as annotate asks
    assert np.abs(scores[0] - scores[1]).max() > 1e-3
    for pair, one, other in zip(pairs, *scores, strict=True):
        expected = one if pair.pair_id in second else other if pair.pair_id in first else (one + other) / 2
        assert [votes[pair.pair_id][f"score_{k}"] for k in (0, 1)] == pytest.approx(expected, abs=1e-9)


def test_fold_runs_are_trained_once_and_go_on_where_they_were_interrupted(judged):
    folder, dataset, _ = judged
    path, run = folder / "config.yaml", folder / "run"
    by_configuration, by_run = load_any_judge(f"self:{path}", **SETTINGS), load_any_judge(f"self:{run}", **SETTINGS)
    assert by_configuration.settings == by_run.settings and by_run.annotator == "self:run"
    assert (
        annotate(dataset, f"self:{run}", load=load_any_judge, settings=SETTINGS).already_voted == 12
    )  # the same judge under another address
    weights = run / "self-judge/fold-1/model/pytorch_lora_weights.safetensors"
    before, untouched = weights.read_bytes(), (run / "self-judge/fold-0/metrics.jsonl").stat().st_mtime_ns
    shutil.rmtree(weights.parent)
    with pytest.raises(PalateError, match="fold-1: this fold run is not finished"):
        load_any_judge(f"self:{run}")
    assert load_any_judge(f"self:{path}", **SETTINGS).settings == by_run.settings and weights.read_bytes() == before
    assert (run / "self-judge/fold-0/metrics.jsonl").stat().st_mtime_ns == untouched
    with pytest.raises(PalateError, match="beta: 500.0 there, 50.0 here"):
        load_any_judge(f"self:{configured(folder, dataset, beta=50.0)}")
    configured(folder, dataset)


def test_a_configuration_without_pairs_or_a_denoiser_has_no_folds(judged, tmp_path):
    _, dataset, _ = judged
    with pytest.raises(PalateError, match="source: images"):
        load_any_judge(f"self:{configured(tmp_path, dataset, method='kto')}")
    with pytest.raises(PalateError, match="in_sample is for votes of a finished run"):
        load_any_judge(f"self:{configured(tmp_path, dataset)}", in_sample=True)
