"""Same prompts, same noise: pictures depend on seed, prompt and repetition, and on nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny import PROMPTS, make_pipeline

import palate
from palate.backbones import load_backbone
from palate.backbones.classifier import PreferenceClassifier
from palate.backbones.guidance import ClassifierGuided, NegativeGuided, plain_weights
from palate.backbones.stable_diffusion import StableDiffusion
from palate.cli import sample as sample_command
from palate.data.samples import OF_THE_MODEL, Samples, Sampling, open_samples
from palate.errors import PalateError
from palate.evaluation.compare import compare
from palate.network.model import make_policy, save_model
from palate.run.load import load_config, save_config
from palate.sampling.samples import generate, initial_noise, load_model, sample

QUICK = Sampling(steps=2, guidance=2.0, repetitions=2)


def test_pictures_do_not_depend_on_the_batch_size(pipeline_folder, tmp_path):
    one = sample(pipeline_folder, list(PROMPTS), tmp_path / "one", QUICK, batch_size=1)
    all_at_once = sample(pipeline_folder, list(PROMPTS), tmp_path / "all", QUICK, batch_size=32)
    assert np.abs(one.images().astype(int) - all_at_once.images().astype(int)).max() <= 1
    assert len({image.tobytes() for image in one.images()}) == 6  # prompts and repetitions all differ


@pytest.mark.parametrize(("pixels", "at_once"), [(64, 32), (256, 32), (512, 8), (1024, 2), (4096, 1)])
def test_fewer_large_pictures_are_made_at_once(pixels, at_once, pipeline_folder, tmp_path, monkeypatch):
    """Thirty-two of 1024 pixels would take a hundred gigabytes in the decoder alone."""
    made = []

    def drawn(backbone, network, prompts, noise, sampling):
        made.append(len(prompts))
        return np.zeros((len(prompts), 8, 8, 3), np.uint8)

    monkeypatch.setattr("palate.sampling.samples.generate", drawn)
    monkeypatch.setattr("palate.sampling.samples.initial_noise", lambda *_: torch.zeros(1))
    monkeypatch.setattr(StableDiffusion, "resolution", pixels)
    sample(pipeline_folder, ["a red circle"], tmp_path / "samples", Sampling(repetitions=33))
    assert made[0] == at_once


def test_steps_and_guidance_are_those_of_the_family_unless_given(pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(StableDiffusion, "stock", (2, 3.0))
    plain = sample(pipeline_folder, ["a red circle"], tmp_path / "plain", Sampling())
    assert [open_samples(plain.folder).settings[name] for name in ("steps", "guidance", "sampler")] == [2, 3.0, "dpm++"]
    named = sample(pipeline_folder, ["a red circle"], tmp_path / "named", Sampling(2, 3.0, "dpm++"))
    assert np.array_equal(plain.images(), named.images())
    one_given = sample(pipeline_folder, ["a red circle"], tmp_path / "given", Sampling(guidance=1.0))
    assert (one_given.settings["steps"], one_given.settings["guidance"]) == (2, 1.0)
    sample_command.main([str(pipeline_folder), "--prompts", "world", "--limit", "1", "--to", str(tmp_path / "verb")])
    assert open_samples(tmp_path / "verb").settings["steps"] == 2
    moved = tmp_path / "moved"
    shutil.copytree(pipeline_folder, moved)
    first = sample(moved, ["a red circle"], tmp_path / "last", Sampling())
    shutil.rmtree(moved)  # finished samples do not need their model
    assert sample(moved, ["a red circle"], tmp_path / "last", Sampling()).settings == first.settings


def test_noise_is_addressed_by_seed_prompt_and_repetition(pipeline_folder):
    backbone = load_backbone(str(pipeline_folder))
    noise = {key: initial_noise(backbone, *key) for key in [(0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0)]}
    assert torch.equal(noise[0, "a", 0], initial_noise(backbone, 0, "a", 0))
    assert len({tensor.numpy().tobytes() for tensor in noise.values()}) == 4


def test_interrupted_sampling_goes_on_and_other_settings_are_refused(pipeline_folder, tmp_path):
    whole = sample(pipeline_folder, list(PROMPTS), tmp_path / "samples", QUICK)
    before = whole.paths[3].read_bytes()
    untouched = whole.paths[0].stat().st_mtime_ns
    whole.paths[3].unlink()
    again = sample(pipeline_folder, list(PROMPTS), tmp_path / "samples", QUICK, batch_size=1)
    assert again.paths[3].read_bytes() == before and again.paths[0].stat().st_mtime_ns == untouched
    with pytest.raises(PalateError, match="different: steps"):
        sample(pipeline_folder, list(PROMPTS), tmp_path / "samples", Sampling(steps=3, guidance=2.0, repetitions=2))
    assert open_samples(tmp_path / "samples").prompts == whole.prompts


def test_our_sampling_is_the_stock_pipeline(pipeline_folder, tmp_path):
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    ours = sample(
        pipeline_folder, ["a red circle"], tmp_path / "ours", Sampling(steps=3, guidance=3.0, seed=5)
    ).images()[0]
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder, safety_checker=None)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    noise = initial_noise(load_backbone(str(pipeline_folder)), 5, "a red circle", 0)[None]
    stock = pipeline("a red circle", latents=noise, num_inference_steps=3, guidance_scale=3.0, output_type="np").images[
        0
    ]
    assert np.abs(ours / 255 - stock).max() < 0.01


def test_a_model_compared_with_itself_ties_everywhere(pipeline_folder, dataset, tmp_path):
    run = palate.train(
        {"pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path), "output_dir": str(tmp_path / "run"), "train_batch_size": 4, "max_train_steps": 1,
         "learning_rate": 0.0, "report_to": "none"}
    )  # fmt: skip
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    result = compare(run.path, prompts=tmp_path / "prompts.txt", scorer="brightness", sampling=QUICK)
    win = result.rows[0].win
    assert (win.n, win.ties, win.rate, win.winner) == (6, 6, 0.5, None)
    stored = pq.read_table(run.path / "samples" / "scores.parquet").to_pylist()
    assert sum(row["scorer"] == "brightness" for row in stored) == 6


def test_samples_of_different_settings_are_no_pairs(pipeline_folder, tmp_path):
    other = make_pipeline(tmp_path / "other", seed=1)
    a = sample(pipeline_folder, list(PROMPTS), tmp_path / "a", QUICK)
    b = sample(other, list(PROMPTS), tmp_path / "b", Sampling(steps=2, guidance=2.0, repetitions=2, seed=1))
    with pytest.raises(PalateError, match="different: seed"):
        compare([a.folder], against=b.folder, scorer="brightness")
    c = sample(other, list(PROMPTS), tmp_path / "c", QUICK)
    assert compare([a.folder], against=c.folder, scorer="brightness").rows[0].win.n == 6
    with pytest.raises(PalateError, match="'beauty' is not known: there are world"):
        compare([a.folder], against=c.folder, scorer="beauty")


def test_the_precision_of_sampling_is_recorded_and_models_are_compared_in_one(pipeline_folder, tmp_path):
    run = make_run(tmp_path / "run", pipeline_folder, lora=True)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    command = [str(run), "--prompts", str(tmp_path / "prompts.txt"), "--steps", "2", "--guidance", "2", "--base"]
    sample_command.main([*command, "--mixed-precision", "bf16"])
    half, base = open_samples(run / "samples"), open_samples(run / "base-samples")
    assert half.settings["mixed_precision"] == base.settings["mixed_precision"] == "bf16"
    whole = sample(run, list(PROMPTS), tmp_path / "whole", Sampling(steps=2, guidance=2.0))
    assert 0 < apart(half, whole) < 25
    with pytest.raises(PalateError, match="different: mixed_precision"):
        compare([half.folder], against=whole.folder, scorer="brightness")


def test_guidance_in_half_precision_reaches_both_networks_and_spares_the_classifier(pipeline_folder, tmp_path):
    run, npo = make_run(tmp_path / "run", pipeline_folder), make_run(tmp_path / "npo", pipeline_folder, lora=False)
    network = load_model(run, negative=npo, mixed_precision="bf16")[1]
    held = {name: {module.weight.dtype for module in part.modules() if isinstance(module, torch.nn.Conv2d)} for name, part in (
        ("unet", network.unet.unet), ("negative", network.negative), ("classifier", network.unet.classifier),
    )}  # fmt: skip
    assert held == {"unet": {torch.bfloat16}, "negative": {torch.bfloat16}, "classifier": {torch.float32}}
    settings = replace(QUICK, negative=str(npo), mixed_precision="bf16")
    half = sample(run, list(PROMPTS), tmp_path / "half", settings)
    assert apart(half, sample(run, list(PROMPTS), tmp_path / "whole", replace(settings, mixed_precision="no"))) < 25


def test_the_base_of_a_run_is_sampled_at_the_revision_that_the_run_started_from(pipeline_folder, tmp_path, monkeypatch):
    """A name on the hub means another model as soon as somebody pushes to it."""
    run, asked = make_run(tmp_path / "run", pipeline_folder, lora=True), []
    save_config(replace(load_config(run / "config.yaml"), revision="1f2e3d"), run / "config.yaml")
    monkeypatch.setattr(
        "palate.sampling.samples.load_backbone",
        lambda name, revision=None: asked.append(revision) or load_backbone(name),
    )
    (tmp_path / "prompts.txt").write_text(PROMPTS[0])
    sample_command.main([str(run), "--prompts", str(tmp_path / "prompts.txt"), "--steps", "1", "--base"])
    assert asked and set(asked) == {"1f2e3d"}
    assert open_samples(run / "base-samples").settings["revision"] == "1f2e3d"
    shutil.rmtree(run / "base-samples")
    asked.clear()
    assert compare([run], scorer="brightness").rows[0].win.n == 1 and set(asked) == {"1f2e3d"}


def test_a_picture_that_is_no_number_is_refused_and_not_stored_as_black(pipeline_folder, tmp_path, monkeypatch):
    nothing = torch.full((3, 3, 8, 8), float("nan"))
    monkeypatch.setattr(StableDiffusion, "sample", lambda *_: nothing)
    with pytest.raises(PalateError, match="not a number"):
        sample(pipeline_folder, list(PROMPTS), tmp_path / "samples", Sampling(steps=1))
    assert not list((tmp_path / "samples").glob("*.png"))


def make_run(folder: Path, pipeline: Path, lora: bool | None = None, seed: int = 0, amount: float = 0.1) -> Path:
    """A run whose network, adapters or all weights, was changed at random; whose classifier was, where lora is None."""
    config = {"pretrained_model_name_or_path": str(pipeline), "dataset": "none", "output_dir": str(folder)}
    config = load_config(config | ({"lora": {"rank": 2}} if lora else {}))
    save_config(config, folder / "config.yaml")
    if lora is None:
        torch.manual_seed(seed)
        classifier = PreferenceClassifier(latent_channels=4, text_width=32, width=8)
        torch.nn.init.normal_(classifier.head.weight, std=30 * amount)
        classifier.save_pretrained(folder / "model" / "classifier")
        return folder
    backbone = load_backbone(str(pipeline))
    policy = make_policy(backbone.network, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter.add_(amount * torch.randn_like(parameter))
    save_model(policy, folder / "model", config, backbone)
    return folder


def apart(one: Samples, other: Samples) -> int:
    """The largest difference of any pixel, of 255."""
    return np.abs(one.images().astype(int) - other.images().astype(int)).max()


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_the_negative_network_of_runs_is_the_published_sum(lora, pipeline_folder, tmp_path):
    run = make_run(tmp_path / "run", pipeline_folder, lora=not lora, seed=1)
    npo = make_run(tmp_path / "npo", pipeline_folder, lora=lora, seed=2)
    b, p, n = (plain_weights(load_model(model)[1]) for model in (pipeline_folder, run, npo))
    network = load_model(run, negative=npo, negative_mix=0.25)[1]
    assert isinstance(network, NegativeGuided)
    for name, weight in network.negative.state_dict().items():
        torch.testing.assert_close(weight, 0.25 * b[name] + 0.75 * p[name] + n[name] - b[name], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(weight, p[name]) for name, weight in plain_weights(network.unet).items())
    assert any(not torch.equal(n[name], b[name]) for name in b) and any(not torch.equal(p[name], b[name]) for name in b)


def test_a_negative_run_that_learned_nothing_gives_the_plain_pictures(pipeline_folder, tmp_path):
    run = make_run(tmp_path / "run", pipeline_folder, lora=True)
    npo = make_run(tmp_path / "npo", pipeline_folder, lora=False, amount=0.0)
    plain = sample(run, list(PROMPTS), tmp_path / "plain", QUICK)
    negative = sample(run, list(PROMPTS), tmp_path / "negative", replace(QUICK, negative=npo))
    assert apart(plain, negative) <= 1  # two networks round otherwise than one, as two batches do
    around_base = sample(run, list(PROMPTS), tmp_path / "base", replace(QUICK, negative=npo, negative_mix=1.0))
    assert apart(plain, around_base) > 5


def test_the_verb_guides_by_a_negative_run_and_records_it(pipeline_folder, tmp_path, capsys):
    run = make_run(tmp_path / "run", pipeline_folder, lora=True, seed=1)
    npo = make_run(tmp_path / "npo", pipeline_folder, lora=False, seed=2)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    command = [str(run), "--prompts", str(tmp_path / "prompts.txt"), "--steps", "2", "--guidance", "2", "--base"]
    sample_command.main([*command, "--negative", str(npo), "--negative-mix", "0.5"])
    assert f"3 pictures in {run / 'samples'}" in capsys.readouterr().out
    made, base = open_samples(run / "samples"), open_samples(run / "base-samples")
    assert (made.settings["negative"], made.settings["negative_mix"]) == (str(npo), 0.5)
    assert (base.settings["negative"], base.settings["negative_mix"]) == (None, 0.0)
    assert {key for key in made.settings if made.settings[key] != base.settings[key]} <= set(OF_THE_MODEL)
    before = made.images()
    with pytest.raises(PalateError, match="different: negative_mix"):
        sample_command.main([*command, "--negative", str(npo)])
    with pytest.raises(PalateError, match="different: negative, negative_mix"):
        sample_command.main(command)
    plain = sample(run, list(PROMPTS), tmp_path / "plain", Sampling(steps=2, guidance=2.0))
    assert np.array_equal(made.images(), before) and not np.array_equal(before, plain.images())


def test_samples_from_before_guidance_by_others_are_still_theirs(pipeline_folder, tmp_path):
    made = sample(pipeline_folder, list(PROMPTS), tmp_path / "samples", QUICK)
    stored = json.loads((made.folder / "samples.json").read_text())
    for key in ("negative", "negative_mix", "classifier_scale"):
        del stored["settings"][key]
    (made.folder / "samples.json").write_text(json.dumps(stored))
    made.paths[2].unlink()
    again = sample(pipeline_folder, list(PROMPTS), made.folder, QUICK)
    assert again.paths[2].exists() and open_samples(made.folder).settings == made.settings
    with pytest.raises(PalateError, match="different: classifier_scale"):
        sample(pipeline_folder, list(PROMPTS), made.folder, replace(QUICK, classifier_scale=2.0))


@pytest.mark.parametrize("folder", ["pipeline_folder", "v_pipeline_folder"])
def test_a_run_with_a_classifier_is_its_base_guided_by_it(folder, tmp_path, request):
    pipeline = request.getfixturevalue(folder)
    run = make_run(tmp_path / "run", pipeline)
    backbone, network = load_model(run)
    assert isinstance(network, ClassifierGuided)
    assert network.prediction_type == backbone.noise_schedule.config.prediction_type
    base = sample(pipeline, list(PROMPTS), tmp_path / "base", QUICK)
    unscaled = sample(run, list(PROMPTS), tmp_path / "0", replace(QUICK, classifier_scale=0.0))
    one_by_one = sample(run, list(PROMPTS), tmp_path / "1", QUICK, batch_size=1)
    together = sample(run, list(PROMPTS), tmp_path / "all", QUICK)
    assert apart(unscaled, base) == 0 and apart(one_by_one, together) <= 1 and apart(together, base) > 5
    noise = torch.stack([initial_noise(backbone, 0, prompt, 0) for prompt in PROMPTS])
    for guidance in (1.0, 2.0):  # without the unconditional half, too
        pictures = generate(backbone, network, list(PROMPTS), noise, Sampling(steps=2, guidance=guidance))
        plain = generate(backbone, backbone.network, list(PROMPTS), noise, Sampling(steps=2, guidance=guidance))
        assert not np.array_equal(pictures, plain)


def test_the_verb_scales_the_classifier_only_where_there_is_one(pipeline_folder, tmp_path):
    run, plain = make_run(tmp_path / "run", pipeline_folder), make_run(tmp_path / "plain", pipeline_folder, lora=True)
    (tmp_path / "prompts.txt").write_text(PROMPTS[0])
    options = ["--prompts", str(tmp_path / "prompts.txt"), "--steps", "1", "--base", "--classifier-scale", "0"]
    sample_command.main([str(run), *options])
    made, base = open_samples(run / "samples"), open_samples(run / "base-samples")
    assert made.settings["classifier_scale"] == 0.0 and np.array_equal(made.images(), base.images())
    with pytest.raises(PalateError, match="has no preference classifier"):
        sample_command.main([str(plain), *options])


def test_a_negative_run_of_another_base_model_is_refused_with_the_reason(pipeline_folder, tmp_path):
    other = make_pipeline(tmp_path / "other", seed=1)
    npo = make_run(tmp_path / "npo", other, lora=True)
    with pytest.raises(PalateError, match="both must start from the same one") as refused:
        sample(pipeline_folder, list(PROMPTS), tmp_path / "samples", replace(QUICK, negative=str(npo)))
    told = str(refused.value)
    assert str(other) in told and str(pipeline_folder) in told and str(npo) in told and "\n" not in told
    assert not (tmp_path / "samples").exists()
    moved = shutil.copytree(pipeline_folder, tmp_path / "moved")  # the same weights in another place are the same base
    made = sample(
        pipeline_folder,
        [PROMPTS[0]],
        tmp_path / "samples",
        replace(QUICK, negative=str(make_run(tmp_path / "n", moved, lora=True))),
    )
    assert len(made.images()) == 2


@pytest.mark.parametrize("kind", ["no run", "not finished", "classifier"])
def test_what_cannot_be_a_negative_run_is_refused(kind, pipeline_folder, tmp_path):
    npo = make_run(tmp_path / "npo", pipeline_folder, lora=None if kind == "classifier" else True)
    if kind == "no run":
        (npo / "config.yaml").unlink()
    if kind == "not finished":
        shutil.rmtree(npo / "model")
    why = {"no run": "not a run", "not finished": "Has the run finished", "classifier": "holds a preference classifier"}
    with pytest.raises(PalateError, match=why[kind]) as refused:
        sample(pipeline_folder, list(PROMPTS), tmp_path / "samples", replace(QUICK, negative=str(npo)))
    assert str(npo) in str(refused.value) and not (tmp_path / "samples").exists()


@pytest.mark.parametrize(
    "changes, why",
    [
        (dict(negative="npo", guidance=1.0), "guidance 1 has no unconditional half"),
        (dict(negative="npo", negative_mix=1.5), "1.5 is not between 0 and 1"),
        (dict(negative="npo", negative_mix=float("nan")), "not between 0 and 1"),
        (dict(negative_mix=0.5), "there is none. Name its run"),
        (dict(classifier_scale=float("inf")), "not a finite number"),
        (dict(sampler="heun"), "'heun' is not one of"),
        (dict(mixed_precision="fp8"), "'fp8' is not one of no, bf16, fp16"),
        pytest.param(
            dict(mixed_precision="fp16"),
            "fp16 needs a GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works here"),
        ),
    ],
)
def test_sampling_that_means_nothing_is_refused_before_anything_is_written(changes, why, pipeline_folder, tmp_path):
    with pytest.raises(PalateError, match=why):
        sample(pipeline_folder, list(PROMPTS), tmp_path / "samples", replace(QUICK, **changes))
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize("count", [{"repetitions": 0}, {"steps": 0}, {"batch_size": -1}])
def test_counts_below_one_are_refused_and_nothing_is_written(count, tmp_path):
    given = {"batch_size": count.pop("batch_size", None)}
    with pytest.raises(PalateError, match="at least 1 is needed"):
        sample("world", ["a red circle"], tmp_path / "s", Sampling(**count), **given)
    assert not (tmp_path / "s").exists()
