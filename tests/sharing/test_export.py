"""What is exported draws the pictures of the run, pixel by pixel, when diffusers loads it; and names are those of other
tools."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sharing.conftest import train
from tiny import PROMPTS, make_pipeline, refusal

import palate
from palate.backbones import load_backbone
from palate.cli import export as export_verb
from palate.data.samples import Sampling
from palate.files import CHECKSUMS
from palate.sampling.samples import initial_noise

SAMPLING = Sampling(steps=3, guidance=2.0, sampler="ddim")


def drawn(model: Path, folder: Path) -> np.ndarray:
    """The pictures of a run or a pipeline folder as palate samples them."""
    samples = palate.sample(model, list(PROMPTS), folder / f"pictures-{model.name}", SAMPLING)
    return np.stack([np.asarray(Image.open(path)) for path in samples.paths]).astype(int)


def drawn_by(pipeline: StableDiffusionPipeline, base: Path) -> np.ndarray:
    """The pictures of a pipeline of diffusers, from the same noise."""
    backbone = load_backbone(str(base))
    noise = torch.stack([initial_noise(backbone, 0, prompt, 0) for prompt in PROMPTS])
    # clip_sample is what the pipeline would choose itself, had it been made with this scheduler
    pipeline.scheduler = DDIMScheduler.from_pretrained(base, subfolder="scheduler", clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(
        list(PROMPTS), latents=noise, num_inference_steps=3, guidance_scale=2.0, output_type="np"
    ).images
    return (pictures * 255).round().astype(int)


def loaded(path: Path, format: str, base: Path) -> StableDiffusionPipeline:
    """An export in diffusers' hands, as its documentation says."""
    if format == "whole pipeline":
        return StableDiffusionPipeline.from_pretrained(path)
    if format == "single-file":
        return StableDiffusionPipeline.from_single_file(path, config=str(base), local_files_only=True)
    if (path / "unet").is_dir():
        unet = UNet2DConditionModel.from_pretrained(path, subfolder="unet")
        return StableDiffusionPipeline.from_pretrained(base, unet=unet)
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    pipeline.load_lora_weights(
        path.parent if path.is_file() else path, **({"weight_name": path.name} if path.is_file() else {})
    )
    return pipeline


def exported(run: Path, format: str, to: Path, **options) -> Path:
    if format == "whole pipeline":
        return palate.export(run, "fused", to, whole_pipeline=True, **options)
    return palate.export(run, format, to, **options)


@pytest.mark.parametrize(
    ("run", "format"),
    [
        *[
            ("adapters", format)
            for format in ("diffusers", "kohya", "comfyui", "fused", "whole pipeline", "single-file")
        ],
        *[("full", format) for format in ("diffusers", "fused", "whole pipeline", "single-file")],
    ],
)
def test_every_format_draws_the_pictures_of_the_run(run, format, pipeline_folder, tmp_path, request):
    run = request.getfixturevalue(run)
    path = exported(run, format, tmp_path / "out")
    pictures, base = drawn(run, tmp_path), drawn(pipeline_folder, tmp_path)
    assert np.abs(pictures - base).max() > 20  # training has changed them
    assert np.abs(drawn_by(loaded(path, format, pipeline_folder), pipeline_folder) - pictures).max() <= 1


def test_the_scale_of_adapters_is_alpha_over_rank(adapters, pipeline_folder, tmp_path):
    """Against the adapters of the training itself, from its checkpoint: W + (8/4)·B·A, and not W + B·A."""
    (state,) = (adapters / "checkpoints").glob("step-*/weights.safetensors")
    factors = load_file(state)
    merged = load_file(
        palate.export(adapters, "fused", tmp_path / "fused") / "unet" / "diffusion_pytorch_model.safetensors"
    )
    base = load_file(pipeline_folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert merged.keys() == base.keys()
    names = [name for name in factors if ".lora_A." in name]
    assert len(names) == 32
    for name in names:
        delta = 2 * factors[name.replace("lora_A", "lora_B")] @ factors[name]
        module = name.split(".lora_A.")[0]
        assert torch.allclose(merged[f"{module}.weight"], base[f"{module}.weight"] + delta, atol=1e-6)
        assert delta.abs().max() > 1e-3
    with safe_open(adapters / "model" / "pytorch_lora_weights.safetensors", "pt") as file:
        (scaling,) = [json.loads(told) for name, told in file.metadata().items() if "adapter_metadata" in name]
    assert scaling["unet.lora_alpha"] == 8 and scaling["unet.rank_pattern"] == {}  # which diffusers 0.37 asks for
    untouched = set(base) - {f"{name.split('.lora_A.')[0]}.weight" for name in names}
    assert all(torch.equal(merged[name], base[name]) for name in untouched)


@pytest.mark.parametrize("format", ["kohya", "comfyui"])
def test_kohyas_names_are_what_diffusers_converts_back(adapters, format, tmp_path):
    path = palate.export(adapters, format, tmp_path / "one.safetensors")
    own = load_file(adapters / "model" / "pytorch_lora_weights.safetensors")
    tensors = load_file(path)
    assert len(tensors) == 96 and all(name.startswith("lora_unet_") for name in tensors)
    back, alphas = _convert_non_diffusers_lora_to_diffusers(dict(tensors))
    assert {shape_of(name): tensor.shape for name, tensor in back.items()} == {
        shape_of(name): tensor.shape for name, tensor in own.items()
    }
    assert len(alphas) == 32 and set(alphas.values()) == {8.0}
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert (header["ss_network_dim"], header["ss_network_alpha"], header["ss_base_model_version"]) == (
        "4",
        "8",
        "sd_v1",
    )


def shape_of(name: str) -> str:
    """A name without what diffusers' two spellings of adapters differ in."""
    name = name.replace("lora_A", "lora.down").replace("lora_B", "lora.up")
    return name.replace(".processor", "").replace("_lora.", ".lora.").replace("to_out.lora", "to_out.0.lora")


@pytest.mark.parametrize("format", ["diffusers", "kohya", "fused", "single-file"])
def test_the_type_of_the_weights(adapters, full, format, tmp_path):
    for run in (adapters, full)[: 1 if format == "kohya" else 2]:
        path = palate.export(run, format, tmp_path / run.parent.name, dtype="bf16")
        files = [path] if path.is_file() else [file for file in path.rglob("*.safetensors")]
        kinds = {name.endswith(".alpha"): tensor.dtype for file in files for name, tensor in load_file(file).items()}
        assert kinds == {False: torch.bfloat16} | ({True: torch.float32} if format == "kohya" else {})
    if format == "diffusers":  # the scale is in the second factors: not every reader knows the header
        path, own = (
            folder / "pytorch_lora_weights.safetensors"
            for folder in (tmp_path / adapters.parent.name, adapters / "model")
        )
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
        for name, tensor in load_file(own).items():
            assert torch.equal(load_file(path)[name], (tensor * (2 if ".lora_B." in name else 1)).to(torch.bfloat16))


@pytest.mark.parametrize("format", ["diffusers", "fused", "whole pipeline"])
def test_folders_have_a_card_and_tell_no_place_on_this_machine(adapters, full, format, tmp_path):
    for run in (adapters, full):
        path = exported(run, format, tmp_path / run.parent.name)
        told = "".join(
            file.read_text() for file in path.rglob("*") if file.suffix in (".json", ".md") and "token" not in file.name
        )
        assert str(tmp_path.parent) not in told and "/tmp" not in told
        card = (path / "README.md").read_text()
        adapter = run == adapters and format == "diffusers"
        assert ("- lora" in card) == ("load_lora_weights" in card) == adapter
        assert ("DiffusionPipeline.from_pretrained(THIS_FOLDER)" in card) == (format == "whole pipeline")
        assert ('UNet2DConditionModel.from_pretrained(THIS_FOLDER, subfolder="unet")' in card) == (
            not adapter and format != "whole pipeline"
        )
        assert "was not compared with its base model" in card and "| human | person 1 | 8 | 8 |" in card


def test_the_card_that_the_report_wrote_goes_with_the_adapters(adapters, tmp_path):
    shutil.copytree(adapters, tmp_path / "run")
    (tmp_path / "run" / "model" / "README.md").write_text("the report's card, edited")
    path = palate.export(tmp_path / "run")
    assert path == tmp_path / "run" / "exports" / "diffusers"
    assert (path / "README.md").read_text() == "the report's card, edited"


def test_a_whole_pipeline_takes_the_license_along_and_no_pickles(adapters, pipeline_folder, tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(pipeline_folder, base)
    shutil.copytree(adapters, run)
    (base / "LICENSE.md").write_text("terms")
    (base / "README.md").write_text("---\nlicense: openrail\n---\nthe base model")
    (base / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(pipeline_folder), str(base)))
    path = palate.export(run, "fused", whole_pipeline=True)
    assert (path / "LICENSE.md").read_text() == "terms" and not list(path.rglob("*.bin"))
    assert "license: openrail" in (path / "README.md").read_text()
    (base / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    palate.export(run, "fused", tmp_path / "denoiser alone")  # needs no VAE
    line = refusal(lambda: palate.export(run, "fused", tmp_path / "whole", whole_pipeline=True))
    assert "pickled" in line and not (tmp_path / "whole").exists()


def test_a_run_that_starts_from_another_is_exported_with_all_weights(adapters, pipeline_folder, tmp_path):
    run = train(pipeline_folder, tmp_path, lora={"rank": 2}, start_from=str(adapters))
    path = palate.export(run, to=tmp_path / "out")
    pictures = drawn(run, tmp_path)
    assert np.abs(drawn_by(loaded(path, "diffusers", pipeline_folder), pipeline_folder) - pictures).max() <= 1
    assert "merged into them" in refusal(lambda: palate.export(run, "kohya"))


def test_the_command_says_where_it_is_and_how_to_load_it(adapters, tmp_path, capsys):
    export_verb.main([str(adapters), "--format", "comfyui", "--to", str(tmp_path), "--dtype", "fp16"])
    out = capsys.readouterr().out
    assert f"export: {tmp_path / 'run.safetensors'} (" in out and "models/loras" in out
    export_verb.main([str(adapters), "--format", "fused", "--whole-pipeline"])
    export_verb.main([str(adapters), "--format", "fused", "--whole-pipeline"])  # its own place may be written again
    assert "DiffusionPipeline.from_pretrained" in capsys.readouterr().out


def test_the_report_can_be_called_after_an_export(adapters, tmp_path):
    palate.export(adapters, to=tmp_path / "out")  # which imports the package that has the function's name
    for _ in range(2):
        assert "not a run" in refusal(lambda: palate.report(tmp_path))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "onnx"}, "format 'onnx' is not one of"),
        ({"dtype": "fp8"}, "dtype 'fp8' is not one of"),
        ({"format": "kohya", "whole_pipeline": True}, "fused, not with kohya"),
        ({"format": "diffusers", "to": "x.safetensors"}, "is a folder"),
    ],
)
def test_what_does_not_exist_or_go_together(adapters, options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(lambda: palate.export(adapters, **options))
    assert not list(tmp_path.iterdir())


def test_runs_that_have_nothing_to_export(adapters, full, pipeline_folder, tmp_path):
    assert "not a run" in refusal(lambda: palate.export(tmp_path))
    shutil.copytree(adapters, tmp_path / "unfinished", ignore=shutil.ignore_patterns("model", "exports"))
    assert "has no model yet" in refusal(lambda: palate.export(tmp_path / "unfinished"))
    for format in ("kohya", "comfyui"):
        assert "there are no adapters" in refusal(lambda format=format: palate.export(full, format))
    guided = train(pipeline_folder, tmp_path, method="pc-diffusion")
    for format in ("diffusers", "fused", "single-file"):
        assert "preference classifier" in refusal(lambda format=format: palate.export(guided, format))
    assert not (guided / "exports").exists()


def test_what_stands_in_the_place_is_left_alone(adapters, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    assert "left alone" in refusal(lambda: palate.export(adapters, to=tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious"]
    (tmp_path / "one.safetensors").write_text("x")
    assert "left alone" in refusal(lambda: palate.export(adapters, "kohya", tmp_path / "one.safetensors"))
    assert (tmp_path / "one.safetensors").read_text() == "x"


@pytest.mark.parametrize("format", ["kohya", "diffusers", "whole pipeline"])
def test_a_full_disk_leaves_nothing_half_written(adapters, format, tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("palate.sharing.export.save_file", full_disk)
    monkeypatch.setattr("shutil.copyfile", full_disk)
    assert "the disk is full" in refusal(lambda: exported(adapters, format, tmp_path / "out"))
    assert not [path for path in tmp_path.rglob("*") if path.name != "out" or path.is_file()]


def test_a_file_of_adapters_that_does_not_say_its_alpha(adapters, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(adapters, run, ignore=shutil.ignore_patterns("exports"))
    path = run / "model" / "pytorch_lora_weights.safetensors"
    save_file(load_file(path), path)
    (run / "model" / CHECKSUMS).unlink()  # as a run of an older version, which has none
    for format in ("diffusers", "kohya", "fused", "single-file"):
        assert "lora.alpha is 8" in refusal(lambda format=format: palate.export(run, format))
    path.write_bytes(b"{")
    assert "could not be read" in refusal(lambda: palate.export(run, "kohya"))
    palate.train(run / "config.yaml", output_dir=str(run))  # finished: writes the model again
    palate.export(run, "kohya")


def test_single_files_that_would_mislead_their_reader(v_pipeline_folder, tmp_path):
    run = train(v_pipeline_folder, tmp_path / "v", lora={"rank": 2})
    assert "predicts v_prediction" in refusal(lambda: palate.export(run, "single-file"))
    base = make_pipeline(tmp_path / "second")
    config = json.loads((base / "unet" / "config.json").read_text()) | {"use_linear_projection": True}
    unet = UNet2DConditionModel.from_config(config)
    unet.save_pretrained(base / "unet")
    run = train(base, tmp_path / "2", lora={"rank": 2})
    assert "2.x" in refusal(lambda: palate.export(run, "single-file"))
    path = palate.export(run, "kohya")
    with safe_open(path, "pt") as file:
        assert file.metadata()["ss_base_model_version"] == "sd_v2"
