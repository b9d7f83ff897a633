"""The pipeline inside the package: stock diffusers loads it without palate; it is small, and imperfect on purpose."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import palate
from palate.backbones import load_backbone
from palate.demos.dataset import SAMPLING, make_dataset, measure_pairs
from palate.demos.pretrain import psnr
from palate.sampling.samples import generate, initial_noise
from palate.world.measure import measure
from palate.world.pictures import PROMPTS, draw, random_scene
from palate.world.voters import VOTERS, true_utility

FOLDER = Path(palate.__file__).parent / "world" / "pipeline"


def test_it_is_a_stock_pipeline_of_safetensors_under_16_mb():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 16e6
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".txt"}
    script = (
        "import sys; sys.modules['palate'] = None\n"
        "from diffusers import StableDiffusionPipeline\n"
        f"pipeline = StableDiffusionPipeline.from_pretrained({str(FOLDER)!r})\n"
        "image = pipeline('a red circle', num_inference_steps=2).images[0]\n"
        "assert image.size == (64, 64)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)


def test_the_autoencoder_keeps_28_db_and_every_colour():
    rng = np.random.default_rng(12345)  # not a seed of the training pictures
    held_out = [random_scene(rng) for _ in range(96)]
    images = np.stack([draw(scene) for scene in held_out])
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
    backbone = load_backbone("world")
    with torch.no_grad():
        latents = backbone.encode_images(tensor)
        decoded = backbone.vae.decode(latents / backbone.vae.config.scaling_factor).sample
    assert psnr(decoded, tensor) >= 28
    assert latents.std().item() == pytest.approx(1, abs=0.15)
    shown = measure((decoded.clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).numpy(), [scene.caption for scene in held_out])
    assert shown.colour_right.all()


def test_base_samples_are_recognisable_and_imperfect():
    backbone = load_backbone("world")
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    noise = torch.stack([initial_noise(backbone, 7, prompt, i % 4) for i, prompt in enumerate(prompts)])
    shown = measure(generate(backbone, backbone.network, prompts, noise, SAMPLING), prompts)
    assert 0.70 <= shown.iou.mean() <= 0.90
    assert shown.colour_right.mean() > 0.85
    assert shown.brightness.std() > 0.15 and shown.centring.std() > 0.1  # there is taste to learn


def test_voters_agree_on_base_samples_as_documented(tmp_path):
    dataset = make_dataset(tmp_path / "world", pairs=160, seed=3)
    shown_0, shown_1, _ = measure_pairs(dataset)
    prefers_0 = {name: voter.vote(shown_0, shown_1, 3)[0] for name, voter in VOTERS.items()}
    majority = prefers_0["majority"]
    tolerance = 0.09  # about 2.5 standard errors of a share at n = 160
    assert np.mean(majority == (true_utility(shown_0) > true_utility(shown_1))) == pytest.approx(0.90, abs=tolerance)
    assert np.mean(prefers_0["biased-judge"] == majority) == pytest.approx(0.70, abs=tolerance)
    assert np.mean(prefers_0["poor-judge"] == majority) == pytest.approx(0.60, abs=tolerance)
    counts = {(row["annotator_id"], row["source"]) for row in dataset.votes().to_pylist()}
    assert counts == {(voter.name, voter.source) for voter in VOTERS.values()}


def test_making_the_dataset_again_adds_only_what_is_missing(tmp_path):
    counts = []
    for pairs in (8, 8, 12):
        dataset = make_dataset(tmp_path / "world", pairs=pairs, voters=("majority",))
        counts.append((len(dataset.pairs()), len(dataset.votes())))
    assert counts == [(8, 8), (8, 8), (12, 12)]
