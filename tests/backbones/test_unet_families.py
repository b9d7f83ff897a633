"""Stable Diffusion and SDXL against diffusers' own pipelines, and what SDXL is told beside the prompt."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from families_unet import make_sd, make_sd_v, make_sdxl, make_sdxl_v
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors.torch import load_file
from tiny import PROMPTS, make_labelled_dataset, refusal

import palate
from palate.backbones import load_backbone
from palate.backbones.conditioning import concatenate, expand, take
from palate.backbones.folders import resolve_folder
from palate.data.dataset import PreferenceDataset
from palate.encoding.cache import encode_pairs, planned_cache, prepare_image
from palate.judges.base import Pair
from palate.training.implicit_judge import load_any_judge

FAMILIES = {"sd": make_sd, "sd-v": make_sd_v, "sdxl": make_sdxl, "sdxl-v": make_sdxl_v}
STEPS, GUIDANCE = 4, 3.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp("family") / name) for name, make in FAMILIES.items()}


@pytest.fixture(params=FAMILIES)
def folder(request, folders):
    return folders[request.param]


@pytest.fixture(scope="module")
def prefs(tmp_path_factory):
    return make_labelled_dataset(tmp_path_factory.mktemp("prefs") / "data", pairs=4, labelled=4)


@pytest.fixture(scope="module")
def sdxl(folders):
    return load_backbone(str(folders["sdxl"]))


def stock(folder):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise_of(backbone, count=3):
    return torch.randn(count, *backbone.latent_shape(64), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_sampling_with_predict_is_the_pipelines_own_picture(folder):
    backbone, pipeline = load_backbone(str(folder)), stock(folder)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    noise, size = noise_of(backbone), {"height": 64, "width": 64}
    theirs = pipeline(
        list(PROMPTS), latents=noise, num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="pt", **size
    ).images

    of_image = expand(backbone.image_conditioning(64, 64, 64), 2 * len(PROMPTS))
    both = (
        concatenate([backbone.encode_prompts([""] * len(PROMPTS)), backbone.encode_prompts(list(PROMPTS))]) | of_image
    )
    scheduler, x = DDIMScheduler.from_config(backbone.noise_schedule.config, clip_sample=False), noise
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        told = t.expand(len(x) * 2)
        without, given = backbone.predict(backbone.network, torch.cat([x, x]), told, both).chunk(2)
        x = scheduler.step(without + GUIDANCE * (given - without), t, x).prev_sample
    ours = (backbone.decode_latents(x) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    made = backbone.sample(backbone.network, list(PROMPTS), noise, STEPS, GUIDANCE, "ddim")
    assert torch.equal(made, theirs)
    other = pipeline(
        list(PROMPTS[::-1]), latents=noise, num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="pt", **size
    ).images
    assert (other - theirs).abs().max() > 1e-3  # the prompt is heard


def test_a_sampler_that_a_family_does_not_have_is_refused(sdxl):
    told = refusal(lambda: sdxl.sample(sdxl.network, ["a"], noise_of(sdxl, 1), 1, 1.0, "heun"))
    assert "Stable Diffusion XL" in told and "dpm++" in told


@torch.no_grad()
def test_predictions_do_not_depend_on_the_batch(folder):
    backbone = load_backbone(str(folder))
    noisy, timestep = noise_of(backbone), torch.tensor([3, 500, 999])
    sizes = [(64, 64), (640, 320), (100, 900)]
    told = concatenate([backbone.image_conditioning(*size, 64) for size in sizes]) | backbone.encode_prompts(
        list(PROMPTS)
    )
    together = backbone.predict(backbone.network, noisy, timestep, told)
    for k in range(3):
        row = slice(k, k + 1)
        alone = backbone.predict(backbone.network, noisy[row], timestep[row], take(told, row))
        torch.testing.assert_close(alone, together[row], rtol=1e-4, atol=1e-5)


# --- SDXL ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_does_and_none_is_zeros(folders, sdxl, tmp_path):
    pipeline = stock(folders["sdxl"])
    given, none, pooled, none_pooled = pipeline.encode_prompt(
        list(PROMPTS), device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    ours, empty = sdxl.encode_prompts(list(PROMPTS)), sdxl.encode_prompts(["", PROMPTS[0]])
    assert torch.equal(ours["embeddings"], given) and torch.equal(ours["pooled"], pooled)
    assert torch.equal(empty["embeddings"][0], none[0]) and torch.equal(empty["pooled"][0], none_pooled[0])
    assert not none.any() and empty["embeddings"][1].any()
    hidden = pipeline.text_encoder(pipeline.tokenizer(list(PROMPTS), padding="max_length", max_length=8, return_tensors="pt").input_ids,
                                   output_hidden_states=True).hidden_states[-2]  # fmt: skip
    assert torch.equal(ours["embeddings"][..., : hidden.shape[-1]], hidden)  # the last but one

    spoken = load_backbone(str(make_sdxl(tmp_path / "spoken", force_zeros_for_empty_prompt=False)))
    assert spoken.encode_prompts([""])["embeddings"].any() and spoken.encode_prompts([""])["pooled"].any()


@pytest.mark.parametrize(
    "width, height, expected",
    [
        (64, 64, [64, 64, 0, 0, 64, 64]),
        (1024, 512, [512, 1024, 0, 32, 64, 64]),  # halved twice and twice again: 128 wide, 32 cut off on either side
        (300, 900, [900, 300, 64, 0, 64, 64]),
        (32, 48, [48, 32, 16, 0, 64, 64]),  # smaller than it becomes
    ],
)
def test_the_network_is_told_the_size_and_the_crop_of_an_image(width, height, expected, sdxl):
    assert sdxl.image_conditioning(width, height, 64)["time_ids"].tolist() == [expected]


def test_the_crop_that_is_told_is_the_crop_that_is_made(sdxl):
    """Every column holds its own number, so that the first column of the cropped image says where it was."""
    width, height = 256, 128
    ramp = np.tile(np.arange(width, dtype=np.uint8), (height, 1))
    image = Image.fromarray(np.repeat(ramp[..., None], 3, axis=2))
    fitted = prepare_image(image, height)  # the short side stays as it is
    _, _, top, left, *_ = sdxl.image_conditioning(width, height, height)["time_ids"][0].tolist()
    assert (fitted[0, 0, 0].item() + 1) * 127.5 == pytest.approx(left, abs=1) and top == 0


def test_the_cache_keeps_what_each_image_was(sdxl, tmp_path):
    dataset = PreferenceDataset.create(tmp_path / "data", "sizes")
    sizes = [((64, 64), (200, 100)), ((90, 300), None)]
    dataset.add_pairs(
        {
            "pair_id": f"p{i}",
            "prompt": PROMPTS[i],
            "image_0": png(one),
            "image_1": None if other is None else png(other),
        }
        for i, (one, other) in enumerate(sizes)
    )
    encoded = encode_pairs(dataset, sdxl)
    places = [("p1", 0), ("p0", 1), ("p0", 0)]
    shown = encoded.image_conditioning(places)
    expected = concatenate([sdxl.image_conditioning(*sizes[int(i[1])][side], sdxl.resolution) for i, side in places])
    assert torch.equal(shown["time_ids"], expected["time_ids"]) and set(shown) == {"time_ids"}
    told = encoded.prompt_conditioning([PROMPTS[1], ""])
    assert set(told) == {"embeddings", "pooled"} and not told["pooled"][1].any()
    assert torch.allclose(told["pooled"][0], sdxl.encode_prompts([PROMPTS[1]])["pooled"][0], atol=1e-3)


def png(size) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def test_the_vae_works_in_fp32_whatever_surrounds_it(sdxl):
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    plain = sdxl.encode_images(images)
    with torch.autocast("cpu", torch.bfloat16):
        inside = sdxl.encode_images(images)
    assert inside.dtype == torch.float32 and torch.equal(inside, plain)
    mean = stock(sdxl.folder).vae.encode(images).latent_dist.mode()
    torch.testing.assert_close(plain, mean * 0.13025)


@torch.no_grad()
def test_a_negative_network_is_told_its_own_half(sdxl, folders):
    from palate.backbones.guidance import NegativeGuided

    other = load_backbone(str(folders["sdxl"])).network
    for parameter in other.parameters():
        parameter.add_(0.01)
    noise = noise_of(sdxl)
    made = sdxl.sample(NegativeGuided(sdxl.network, other), list(PROMPTS), noise, 1, GUIDANCE, "ddim")

    scheduler = DDIMScheduler.from_config(sdxl.noise_schedule.config, clip_sample=False)
    scheduler.set_timesteps(1)
    t, of_image = scheduler.timesteps[0], expand(sdxl.image_conditioning(64, 64, 64), 3)
    told = t.expand(3)
    without = sdxl.predict(other, noise, told, sdxl.encode_prompts([""] * 3) | of_image)
    given = sdxl.predict(sdxl.network, noise, told, sdxl.encode_prompts(list(PROMPTS)) | of_image)
    x = scheduler.step(without + GUIDANCE * (given - without), t, noise).prev_sample
    torch.testing.assert_close(made, (sdxl.decode_latents(x) / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "method, keys",
    [
        ("spin", {"sampling_steps": 1}),
        ("spo", {"reward": "brightness", "reward_gap": 0.0, "sampling_steps": 3, "first_sampling_step": 1, "prompts_per_round": 2}),
        ("self-npo", {}),
        ("inpo", {}),
        ("sudo", {}),
        ("pc-diffusion", {}),
        ("self-training-crossfit", {"self_folds": 2, "self_draws": 1}),
    ],
)  # fmt: skip
def test_sources_and_judges_tell_sdxl_what_it_must_know(method, keys, folders, prefs, tmp_path):
    """The network takes no step without its sizes, so that whatever forgets them ends in an error."""
    run = palate.train(
        {"pretrained_model_name_or_path": str(folders["sdxl"]), "dataset": str(prefs.path), "output_dir": str(tmp_path / "run"), "method": method,
         "max_train_steps": 1, "train_batch_size": 2, "resolution": 64, "report_to": "none", **keys},
    )  # fmt: skip
    assert np.isfinite(run.metrics[0]["loss"]) and any(run.model_path.rglob("*.safetensors"))


def test_a_run_of_sdxl_is_a_judge(folders, prefs, tmp_path):
    run = palate.train(
        {"pretrained_model_name_or_path": str(folders["sdxl"]), "dataset": str(prefs.path), "output_dir": str(tmp_path / "run"), "lora": {"rank": 2},
         "max_train_steps": 1, "train_batch_size": 2, "learning_rate": 0.1, "resolution": 64, "report_to": "none"},
    )  # fmt: skip
    judge = load_any_judge(f"self:{run.path}", draws=1, in_sample=True, device="cpu")
    wide, square = (Image.open(io.BytesIO(png(size))) for size in ((200, 100), (64, 64)))
    scores = judge.vote([Pair("a", PROMPTS[0], wide, square), Pair("b", PROMPTS[1], square, wide)])
    alone = judge.vote([Pair("b", PROMPTS[1], square, wide)])
    assert scores.shape == (2, 2) and scores.std() > 0
    np.testing.assert_allclose(scores[1:], alone, rtol=1e-3, atol=1e-3)


# --- bad input -------------------------------------------------------------------------------------------------------


def changed_index(folder, tmp_path, **entries):
    changed = tmp_path / "changed"
    changed.mkdir()
    for part in folder.iterdir():
        if part.is_dir():
            (changed / part.name).symlink_to(part)
    index = json.loads((folder / "model_index.json").read_text()) | entries
    (changed / "model_index.json").write_text(json.dumps(index))
    return changed


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"text_encoder": [None, None], "tokenizer": [None, None]}, ["text_encoder"]),  # as in a refiner
        ({"_class_name": "StableDiffusionXLImg2ImgPipeline"}, ["StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLPipeline"]),
        ({"_class_name": "KandinskyPipeline"}, ["KandinskyPipeline", "StableDiffusionPipeline"]),
        ({"unet": [None, None]}, ["has no UNet"]),
        ({"vae": [None, None]}, ["vae"]),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(entries, words, folders, tmp_path):
    folder = changed_index(folders["sdxl"], tmp_path, **entries)
    told = refusal(lambda: load_backbone(str(folder)))
    assert str(folder) in told and all(word in told for word in words)


def test_a_scheduler_without_timesteps_is_refused(folders, tmp_path):
    folder = changed_index(folders["sdxl"], tmp_path, scheduler=["diffusers", "EDMEulerScheduler"])
    assert "EDMEulerScheduler" in refusal(lambda: load_backbone(str(folder)).num_timesteps)


def test_lora_targets_that_match_nothing_are_refused_with_some_that_would(folders, tmp_path):
    from palate.network.model import make_policy
    from palate.run.load import load_config

    def policy(*targets):
        config = {"pretrained_model_name_or_path": "world", "dataset": "none", "output_dir": str(tmp_path)}
        return make_policy(
            load_backbone(str(folders["sdxl"])).network,
            load_config(config | {"lora": {"target_modules": list(targets)}}),
        )

    told = refusal(lambda: policy("to_q", "query"))
    assert "query" in told and "to_k" in told and "to_q match" not in told
    assert "GroupNorm" in refusal(lambda: policy("norm1"))
    assert len(policy("to_q").names) > 0


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_damaged_components_are_refused_in_one_line(component, folders, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(folders["sdxl"], folder)
    weights = folder / component / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert f"{component}: could not be loaded" in refusal(lambda: load_backbone(str(folder)).encode_prompts(["a"]))


@pytest.mark.parametrize(("family", "component"), [("sd", "tokenizer"), ("sdxl", "tokenizer_2")])
def test_a_tokenizer_without_vocabulary_is_refused_here_too(family, component, folders, tmp_path):
    """transformers would make one that knows no word."""
    folder = tmp_path / "wordless"
    shutil.copytree(folders[family], folder)
    for file in ("vocab.json", "tokenizer.json"):
        (folder / component / file).unlink(missing_ok=True)
    assert f"{component}: no vocabulary" in refusal(lambda: load_backbone(str(folder)).encode_prompts(["a"]))


@pytest.mark.parametrize(
    ("component", "name"),
    [("vae", "diffusion_pytorch_model"), ("text_encoder", "model"), ("unet", "diffusion_pytorch_model")],
)
def test_pickled_weights_are_refused_before_anything_is_loaded(component, name, folders, prefs, tmp_path):
    """They are in no fingerprint: another model's cache would be taken for theirs."""
    folder = tmp_path / "pickled"
    shutil.copytree(folders["sd"], folder)
    weights = load_file(folder / component / f"{name}.safetensors")
    torch.save(weights, folder / component / {"model": "pytorch_model.bin"}.get(name, f"{name}.bin"))
    backbone = load_backbone(str(folder))
    planned_cache(prefs, backbone)  # pickled ones beside the others are not looked at
    (folder / component / f"{name}.safetensors").unlink()
    assert f"{component}: its weights are pickled" in refusal(lambda: planned_cache(prefs, load_backbone(str(folder))))
    if component == "vae":
        assert "its weights are pickled" in refusal(lambda: backbone.encode_images(torch.zeros(1, 3, 64, 64)))


def test_from_the_hub_come_the_parts_and_the_licence_and_no_second_copies(monkeypatch, tmp_path):
    weights = ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model-00001-of-00002.safetensors")
    wanted = ["model_index.json", "README.md", "LICENSE.md", "unet/config.json", "tokenizer/merges.txt", *weights]
    unwanted = [
        "v1-5-pruned.safetensors", "v1-5-pruned-emaonly.ckpt", "unet/diffusion_pytorch_model.fp16.safetensors", "unet/model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/diffusion_pytorch_model.bf16-00001-of-00002.safetensors", "other/a.json",
    ]  # fmt: skip
    index = {"_class_name": "It", "unet": ["diffusers", "UNet"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    arrived = []

    def snapshot(name, revision, **patterns):
        arrived.append(list(filter_repo_objects(wanted + unwanted, **patterns)))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert resolve_folder("owner/model", "main") == tmp_path and arrived == [["model_index.json"], wanted]
