"""Samples of a model: the same prompts and the same initial noise for every model, whatever the batch size."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from PIL import Image

from palate.arithmetic import flushed_denormals
from palate.backbones import StableDiffusion, load_backbone
from palate.errors import PalateError
from palate.evaluation.prompts import load_prompts, prompts_hash
from palate.files import atomic_path, write_text
from palate.progress import progress_bar
from palate.training.config import load_config
from palate.training.draws import address
from palate.training.model import load_trained_unet

SAMPLERS = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}


@dataclass(frozen=True)
class Sampling:
    """How pictures are made. Guidance in diffusers' convention: unconditional + guidance·(conditional - unconditional)."""

    steps: int = 25
    guidance: float = 7.5
    sampler: str = "dpm++"
    seed: int = 0
    repetitions: int = 1
    """Pictures per prompt, each from its own noise."""


@dataclass(frozen=True)
class Samples:
    """A folder of samples: pictures in the order of `prompts`, each prompt `repetitions` times in a row."""

    folder: Path
    prompts: list[str]  # one per picture
    settings: dict

    @property
    def paths(self) -> list[Path]:
        return [_path(self.folder, i) for i in range(len(self.prompts))]

    def images(self) -> np.ndarray:
        """All pictures, uint8 [N, H, W, 3]. Raises PalateError while some are still to be made."""
        missing = sum(not path.exists() for path in self.paths)
        if missing:
            raise PalateError(
                f"{self.folder}: {missing} of {len(self.paths)} pictures are missing. The same `palate sample` command goes on."
            )
        return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in self.paths])


def sample(
    model: str | Path,
    prompts: list[str],
    folder: Path,
    sampling: Sampling,
    batch_size: int = 32,
    device: str | None = None,
) -> Samples:
    """Sample a run, a pipeline folder, or "world"; pictures that are there already are kept, so a second call goes on.

    Raises PalateError when `folder` holds samples of other prompts or settings, or of another model.
    """
    if sampling.sampler not in SAMPLERS:
        raise PalateError(f"sampler {sampling.sampler!r} is not one of {', '.join(SAMPLERS)}.")
    settings = {"model": str(model), "prompts": prompts_hash(prompts), **asdict(sampling)}
    per_picture = [prompt for prompt in prompts for _ in range(sampling.repetitions)]
    samples = Samples(folder, per_picture, settings)
    _claim_folder(samples)
    missing = [i for i in range(len(per_picture)) if not _path(folder, i).exists()]
    if not missing:
        return samples
    backbone, unet = load_model(model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with progress_bar(f"sampling {Path(model).name}", len(missing)) as advance:
        for start in range(0, len(missing), batch_size):
            index = missing[start : start + batch_size]
            noise = torch.stack(
                [initial_noise(backbone, sampling.seed, per_picture[i], i % sampling.repetitions) for i in index]
            )
            for i, picture in zip(
                index, generate(backbone, unet, [per_picture[i] for i in index], noise, sampling), strict=True
            ):
                with atomic_path(_path(folder, i), durable=False) as temporary:
                    Image.fromarray(picture).save(temporary, format="PNG")
            advance(len(index))
    return samples


def sample_verb(
    model: str, prompts: str, sampling: Sampling, to: Path | None, base: bool, batch_size: int = 32
) -> list[Samples]:
    """Sample a model into its usual place, and the model it started from where asked. Raises PalateError without a place."""
    is_run = (Path(model) / "config.yaml").is_file()
    if not is_run and to is None:
        raise PalateError(f"{model} is not a run, so say where the pictures should go: --to FOLDER.")
    if base and not is_run:
        raise PalateError(f"{model} is not a run, so it has no base; leave out --base.")
    texts = load_prompts(prompts)
    made = [sample(model, texts, to or Path(model) / "samples", sampling, batch_size)]
    if base:
        started_from = load_config(Path(model) / "config.yaml").pretrained_model_name_or_path
        made.append(sample(started_from, texts, Path(model) / "base-samples", sampling, batch_size))
    return made


def load_model(model: str | Path, device: str = "cpu") -> tuple[StableDiffusion, torch.nn.Module]:
    """Backbone and network of a run (its base model with what training made of it), a pipeline folder, or "world"."""
    run = Path(model)
    if not (run / "config.yaml").is_file():
        backbone = load_backbone(str(model))
        backbone.device = device
        return backbone, backbone.unet
    config = load_config(run / "config.yaml")
    backbone = load_backbone(config.pretrained_model_name_or_path, config.revision)
    backbone.device = device
    return backbone, load_trained_unet(backbone.unet, run / "model").to(device)


def initial_noise(backbone: StableDiffusion, seed: int, prompt: str, repetition: int) -> torch.Tensor:
    """The noise [C, h, w] that a picture starts from: a function of (seed, prompt, repetition), not of the model."""
    side = backbone.resolution // backbone.vae_factor
    generator = torch.Generator().manual_seed(address("sample", seed, prompt, repetition))
    return torch.randn((backbone.latent_channels, side, side), generator=generator)


@flushed_denormals()
@torch.no_grad()
def generate(
    backbone: StableDiffusion, unet: torch.nn.Module, prompts: list[str], noise: torch.Tensor, sampling: Sampling
) -> np.ndarray:
    """Pictures uint8 [B, H, W, 3] from initial noise [B, C, h, w], by the stock diffusers pipeline."""
    pipeline = backbone.pipeline(unet.eval(), SAMPLERS[sampling.sampler])
    pictures = pipeline(
        prompts, latents=noise.to(backbone.device), num_inference_steps=sampling.steps, guidance_scale=sampling.guidance, output_type="np",
        height=backbone.resolution, width=backbone.resolution,
    ).images  # fmt: skip
    return (pictures * 255).round().astype(np.uint8)


def open_samples(folder: str | Path) -> Samples:
    """Samples made earlier. Raises PalateError when the folder holds none."""
    path = Path(folder) / "samples.json"
    if not path.is_file():
        raise PalateError(f"{folder}: no samples here (no samples.json). Make some with `palate sample`.")
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Samples(Path(folder), stored["prompts"], stored["settings"])


def _claim_folder(samples: Samples) -> None:
    path = samples.folder / "samples.json"
    if path.exists():
        before = open_samples(samples.folder)
        if before.settings != samples.settings:
            told = ", ".join(name for name in samples.settings if before.settings.get(name) != samples.settings[name])
            raise PalateError(
                f"{samples.folder} holds samples made otherwise (different: {told}). Choose another folder."
            )
        return
    write_text(path, json.dumps({"settings": samples.settings, "prompts": samples.prompts}, indent=1))


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:06}.png"
