"""Same prompts, same noise: pictures depend on seed, prompt and repetition, and on nothing else."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import PROMPTS, make_pipeline

import palate
from palate.backbones import load_backbone
from palate.errors import PalateError
from palate.evaluation.compare import compare
from palate.evaluation.prompts import load_prompts, prompts_hash
from palate.evaluation.samples import Sampling, initial_noise, open_samples, sample

QUICK = Sampling(steps=2, guidance=2.0, repetitions=2)


def test_pictures_do_not_depend_on_the_batch_size(pipeline_folder, tmp_path):
    one = sample(pipeline_folder, list(PROMPTS), tmp_path / "one", QUICK, batch_size=1)
    all_at_once = sample(pipeline_folder, list(PROMPTS), tmp_path / "all", QUICK, batch_size=32)
    assert np.abs(one.images().astype(int) - all_at_once.images().astype(int)).max() <= 1
    assert len({image.tobytes() for image in one.images()}) == 6  # prompts and repetitions all differ


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
    assert len(stored) == 6 and {row["scorer"] for row in stored} == {"brightness"}


def test_samples_of_different_settings_are_no_pairs(pipeline_folder, tmp_path):
    other = make_pipeline(tmp_path / "other", seed=1)
    a = sample(pipeline_folder, list(PROMPTS), tmp_path / "a", QUICK)
    b = sample(other, list(PROMPTS), tmp_path / "b", Sampling(steps=2, guidance=2.0, repetitions=2, seed=1))
    with pytest.raises(PalateError, match="different: seed"):
        compare([a.folder], against=b.folder, scorer="brightness")
    c = sample(other, list(PROMPTS), tmp_path / "c", QUICK)
    assert compare([a.folder], against=c.folder, scorer="brightness").rows[0].win.n == 6
    with pytest.raises(PalateError, match="'beauty' is not known; there are world"):
        compare([a.folder], against=c.folder, scorer="beauty")


@pytest.mark.parametrize("kind", ["txt", "json", "jsonl", "csv", "parquet"])
def test_prompt_files_of_every_kind(kind, tmp_path):
    path, rows = (
        tmp_path / f"suite.{kind}",
        [{"prompt": "a cat, sitting", "neg_prompt": ""}, {"prompt": "Überraschung", "neg_prompt": ""}],
    )
    texts = {
        "txt": "a cat, sitting\n\nÜberraschung\n", "json": json.dumps(rows), "jsonl": "\n".join(map(json.dumps, rows)),
        "csv": 'prompt,neg_prompt\n"a cat, sitting",\nÜberraschung,\n',
    }  # fmt: skip
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(texts[kind], encoding="utf-8")
    assert load_prompts(path) == ["a cat, sitting", "Überraschung"]
    assert prompts_hash(["a", "b"]) != prompts_hash(["b", "a"])


@pytest.mark.parametrize("text", ["", "{", '[{"title": "x"}]', "[1, 2]"])
def test_broken_prompt_files_get_one_line(text, tmp_path):
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(PalateError, match="suite.json") as refused:
        load_prompts(tmp_path / "suite.json")
    assert "\n" not in str(refused.value)
