"""Every family in every format that holds it: diffusers loads the export, and the stock pipeline draws the run's pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from families import FAMILIES
from families_unet import make_sdxl_v
from PIL import Image
from safetensors.torch import load_file
from sharing.conftest import train
from tiny import PROMPTS, refusal

import palate
from palate.backbones import load_backbone
from palate.data.samples import Sampling
from palate.sampling.samples import initial_noise

SAMPLING = Sampling(steps=2, guidance=2.0, sampler="euler")
EXPORTED = [family for family in FAMILIES if family != "qwen-image"]  # which is sampled at 1,024 px whatever its size
FILES = {"sdxl": ("kohya", "comfyui", "single-file"), "sd35": ("comfyui",), "flux": ("comfyui",)}
ADAPTERS = {"rank": 2, "alpha": 6}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A function that trains a family, once: (base, run)."""
    made: dict[tuple, tuple[Path, Path]] = {}

    def run(family: str, kind: str) -> tuple[Path, Path]:
        if (family, kind) not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{kind}")
            base = FAMILIES[family](folder / "base")
            options = {"lora": ADAPTERS, "learning_rate": 0.2} if kind == "lora" else {"learning_rate": 0.01}
            made[family, kind] = base, train(base, folder, **options)
        return made[family, kind]

    return run


def pictures_of(model: Path, folder: Path) -> np.ndarray:
    """As palate samples a run or a pipeline folder, in [0, 255]."""
    samples = palate.sample(model, list(PROMPTS[:2]), folder / f"pictures-{model.name}", SAMPLING)
    return np.stack([np.asarray(Image.open(path)) for path in samples.paths]).astype(int)


def pictures_by(network: torch.nn.Module, base: Path) -> np.ndarray:
    """By a network that diffusers loaded, in the stock pipeline, from the same noise."""
    backbone = load_backbone(str(base))
    noise = torch.stack([initial_noise(backbone, 0, prompt, 0) for prompt in PROMPTS[:2]])
    with torch.no_grad():
        pictures = backbone.sample(network.eval(), list(PROMPTS[:2]), noise, 2, 2.0, "euler")
    return (pictures.permute(0, 2, 3, 1).numpy() * 255).round().astype(int)


@pytest.mark.parametrize(
    ("family", "format"), [(family, format) for family, formats in FILES.items() for format in formats]
)
def test_files_draw_the_pictures_of_the_run(family, format, run_of, tmp_path):
    base, run = run_of(family, "lora")
    path = palate.export(run, format, tmp_path / "one.safetensors")
    pictures = pictures_of(run, tmp_path)
    assert np.abs(pictures - pictures_of(base, tmp_path)).max() > 8
    if format == "single-file":
        pipeline = StableDiffusionXLPipeline.from_single_file(path, config=str(base), local_files_only=True)
        stock = DiffusionPipeline.from_pretrained(base)
        for name in ("vae", "text_encoder", "text_encoder_2"):
            ours, theirs = getattr(pipeline, name).state_dict(), getattr(stock, name).state_dict()
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    else:
        pipeline = DiffusionPipeline.from_pretrained(base)
        pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    network = getattr(pipeline, load_backbone(str(base)).denoiser)
    assert np.abs(pictures_by(network, base) - pictures).max() <= 1


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("family", EXPORTED)
def test_folders_draw_the_pictures_of_the_run(family, kind, run_of, tmp_path):
    base, run = run_of(family, kind)
    pictures = pictures_of(run, tmp_path)
    assert np.abs(pictures - pictures_of(base, tmp_path)).max() > 8
    whole = palate.export(run, "fused", tmp_path / "whole", whole_pipeline=True)
    assert np.abs(pictures_of(whole, tmp_path) - pictures).max() <= 1
    folder, pipeline = palate.export(run, "diffusers", tmp_path / "out"), DiffusionPipeline.from_pretrained(base)
    denoiser = load_backbone(str(base)).denoiser
    if (folder / "pytorch_lora_weights.safetensors").is_file():
        pipeline.load_lora_weights(folder)
        network = getattr(pipeline, denoiser)
    else:
        assert kind == "full" or family == "pixart"  # whose pipeline loads no adapters: they are merged
        network = type(getattr(pipeline, denoiser)).from_pretrained(folder, subfolder=denoiser)
        assert (
            f'{type(network).__name__}.from_pretrained(THIS_FOLDER, subfolder="{denoiser}")'
            in (folder / "README.md").read_text()
        )
    assert np.abs(pictures_by(network, base) - pictures).max() <= 1


def test_names_for_comfyui_are_those_of_diffusers_with_the_scale_in_the_weights(run_of, tmp_path):
    _, run = run_of("flux", "lora")
    tensors = load_file(palate.export(run, "comfyui", tmp_path / "one.safetensors"))
    own = load_file(run / "model" / "pytorch_lora_weights.safetensors")
    own = {name.replace("lora.down", "lora_A").replace("lora.up", "lora_B"): tensor for name, tensor in own.items()}
    assert tensors.keys() == own.keys() and all(name.startswith("transformer.") for name in tensors)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, own[name] * (3 if ".lora_B." in name else 1))


def test_formats_that_do_not_hold_a_family_are_refused(run_of, tmp_path):
    for family in ("sd35", "flux", "sana"):
        assert "kohya's keys are for" in refusal(
            lambda family=family: palate.export(run_of(family, "lora")[1], "kohya")
        )
    assert "ComfyUI reads no adapters of a SanaPipeline" in refusal(
        lambda: palate.export(run_of("sana", "lora")[1], "comfyui")
    )
    assert "merged into them" in refusal(lambda: palate.export(run_of("pixart", "lora")[1], "kohya"))
    assert "there are no adapters" in refusal(lambda: palate.export(run_of("pixart", "full")[1], "comfyui"))
    for family in ("sd35", "flux", "pixart"):
        assert "no single file" in refusal(
            lambda family=family: palate.export(run_of(family, "full")[1], "single-file")
        )
    run = train(make_sdxl_v(tmp_path / "v"), tmp_path, lora=ADAPTERS)
    assert "predicts v_prediction" in refusal(lambda: palate.export(run, "single-file"))
    palate.export(run, "kohya")  # adapters are read together with a base that says it
