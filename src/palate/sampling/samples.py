"""Samples of a model: the same prompts and the same initial noise for every model, whatever the batch size."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import ModelMixin
from PIL import Image

from palate.addresses import normal
from palate.arithmetic import flushed_denormals
from palate.arrays import Pixels
from palate.backbones import Backbone, load_backbone
from palate.backbones.classifier import load_classifier
from palate.backbones.components import component_config
from palate.backbones.folders import fingerprint
from palate.backbones.guidance import ClassifierGuided, NegativeGuided, at_guidance, denoisers, negative_weights
from palate.backbones.stable_diffusion import SAMPLERS
from palate.data.samples import Samples, Sampling, different_settings, open_samples, picture_path
from palate.errors import PalateError, did_you_mean
from palate.files import atomic_path, write_text
from palate.network.model import load_trained
from palate.network.precision import PRECISIONS, check_precision, compute_in
from palate.progress import progress_bar
from palate.run.load import base_model, load_config
from palate.sampling.origin import origin_of, same_model, trained_since
from palate.sampling.prompts import Suite, listed

DEFAULT_SAMPLERS = ("dpm++", "euler")  # of families with a noise schedule, and of flow matching


def sample(
    model: str | Path,
    prompts: list[str] | Suite,
    folder: Path,
    sampling: Sampling,
    batch_size: int | None = None,
    device: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    vae: str | None = None,
) -> Samples:
    """Sample a run, a pipeline folder, or "world"; pictures that are there already are kept, so a second call goes on.

    `batch_size` pictures are made at once: 32 of 256 pixels, and fewer of more, where it is None. `revision`,
    `variant` and `vae` are of a pipeline, as `load_backbone` has them; a run has its own. A prompt that comes again in
    a list is left out, as in a file.

    Raises PalateError when `folder` holds samples of other prompts or settings, of another model, or of this one before
    it was trained further, and when the model or its negative run cannot be used; nothing is written then.
    """
    negative = str(sampling.negative) if sampling.negative else None  # a path, too, is stored as text
    sampling = _checked(replace(sampling, negative=negative))
    if batch_size is not None and batch_size < 1:
        raise PalateError(f"batch_size: {batch_size}, but at least 1 is needed.")
    base = {"revision": revision, "variant": variant, "vae": vae}
    if sampling.sampler == "default" or sampling.steps is None or sampling.guidance is None:
        sampling = _resolved(sampling, model, folder, base)
    suite = prompts if isinstance(prompts, Suite) else listed(prompts)
    if suite.repeated and suite is not prompts:
        print(suite.line())
    settings = {"model": str(model), "prompts": suite.hash, **asdict(sampling)}
    settings |= {name: value for name, value in base.items() if value}
    per_picture = [prompt for prompt in suite.prompts for _ in range(sampling.repetitions)]
    samples = Samples(folder, per_picture, settings, suite.source if suite is prompts else "")
    begun = (folder / "samples.json").exists()
    samples = _refuse_others(samples) if begun else samples
    if begun and not samples.missing:
        return samples
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    backbone, network = load_model(
        model, device, sampling.negative, sampling.negative_mix, sampling.mixed_precision, base
    )
    batch_size = batch_size or max(1, 32 * 256**2 // max(256, backbone.resolution) ** 2)
    with progress_bar(f"sampling {Path(model).name}", len(samples.missing)) as advance:
        for start in range(0, len(per_picture), batch_size):
            # A batch is made whole even where some of its pictures are there: the last bits of a picture can depend on
            # what it is made together with, and an interrupted folder must end as one never interrupted.
            index = range(start, min(start + batch_size, len(per_picture)))
            wanted = [i for i in index if not picture_path(folder, i).exists()]
            if not wanted:
                continue
            noise = torch.stack(
                [initial_noise(backbone, sampling.seed, per_picture[i], i % sampling.repetitions) for i in index]
            )
            pictures = generate(backbone, network, [per_picture[i] for i in index], noise, sampling)
            if not begun:  # not before the family has taken the settings
                shapes = {"latent_shape": list(noise.shape[1:]), "picture_size": list(pictures.shape[1:3])}
                origin = origin_of(model, negative, revision)
                samples, begun = replace(samples, settings=settings | shapes, origin=origin), True
                _say_what_is_here(samples)
            for i in wanted:
                with atomic_path(picture_path(folder, i), durable=False) as temporary:
                    Image.fromarray(pictures[i - start]).save(temporary, format="PNG")
            advance(len(wanted))
    if not begun:  # all pictures were there, and nothing that says what they are
        samples = replace(samples, origin=origin_of(model, negative, revision))
        _say_what_is_here(samples)
    return samples


def _say_what_is_here(samples: Samples) -> None:
    told = {"settings": samples.settings, "suite": samples.suite, "prompts": samples.prompts, "origin": samples.origin}
    write_text(samples.folder / "samples.json", json.dumps(told, indent=1))


def sample_verb(
    model: str, suite: Suite, sampling: Sampling, to: Path | None, base: bool, batch_size: int | None = None,
    device: str | None = None, parts: dict[str, str | None] | None = None,
) -> list[Samples]:  # fmt: skip
    """Sample a model into its usual place, and the model it started from where asked: that one without a negative
    network.

    Raises PalateError without a place, and for a classifier's scale where there is no classifier.
    """
    is_run = (Path(model) / "config.yaml").is_file()
    if not is_run and to is None:
        raise PalateError(f"{model} is not a run, so say where the pictures should go: --to FOLDER.")
    if base and not is_run:
        raise PalateError(f"{model} is not a run, so it has no base; leave out --base.")
    if sampling.classifier_scale != Sampling.classifier_scale and not _classifier_folder(Path(model)).is_dir():
        raise PalateError(f"{model} has no preference classifier (model/classifier); leave out --classifier-scale.")
    made = [sample(model, suite, to or Path(model) / "samples", sampling, batch_size, device, **parts or {})]
    if base:
        config = load_config(Path(model) / "config.yaml")
        plain = replace(sampling, negative=None, negative_mix=0.0)
        place = Path(model) / "base-samples"
        parts = {"revision": config.revision, "variant": config.variant, "vae": config.vae}
        name = config.pretrained_model_name_or_path
        made.append(sample(name, suite, place, plain, batch_size, device, **parts))
    return made


def load_model(
    model: str | Path,
    device: str = "cpu",
    negative: str | Path | None = None,
    negative_mix: float = 0.0,
    mixed_precision: str = "no",
    base: dict[str, str | None] | None = None,
) -> tuple[Backbone, torch.nn.Module]:
    """Backbone and network of a run (its base model with what training made of it), a pipeline folder, or "world".

    The network of a run with a classifier is its base guided by it; with `negative`, a run, it is guided by that one's
    network, too. Both are called as a UNet is. Raises PalateError when the negative run is none, not finished, has no
    network of its own, or started from another base model, and for a precision that the device does not have. `base`
    says of a pipeline what `load_backbone` wants to know beside its name.
    """
    backbone = _backbone_of(model, "cpu", base)  # whole there; of half the size on the device
    check_precision(mixed_precision, torch.device(device), backbone)
    network = _network_of(model, backbone)
    if negative is not None:
        network = NegativeGuided(network, _negative_network(negative, negative_mix, backbone, network))
    for denoiser in denoisers(network):
        compute_in(denoiser, mixed_precision, device)
    backbone.device = device
    return backbone, network.to(device)


def _backbone_of(model: str | Path, device: str, base: dict[str, str | None] | None = None) -> Backbone:
    """The backbone that a run started from, or of a pipeline folder, or "world"; `base` is of a pipeline."""
    if (Path(model) / "config.yaml").is_file():
        backbone = load_backbone(**base_model(load_config(Path(model) / "config.yaml")))
    else:
        backbone = load_backbone(str(model), **(base or {}))
    backbone.device = device
    return backbone


def _network_of(model: str | Path, backbone: Backbone) -> ModelMixin:
    if not (Path(model) / "config.yaml").is_file():
        return backbone.network
    if _classifier_folder(Path(model)).is_dir():
        schedule = backbone.noise_schedule
        classifier = load_classifier(_classifier_folder(Path(model)))
        return ClassifierGuided(backbone.network, classifier, schedule.alphas_cumprod, schedule.config.prediction_type)
    return load_trained(backbone, Path(model) / "model")


def _negative_network(negative: str | Path, mix: float, backbone: Backbone, positive: torch.nn.Module) -> ModelMixin:
    """The network of the negative run, moved from its base model towards the positive one, in the processor's
    memory."""
    if not (Path(negative) / "config.yaml").is_file():
        raise PalateError(
            f"{negative}: not a run (no config.yaml). The negative network is a run, trained to prefer the other image."
        )
    if _classifier_folder(Path(negative)).is_dir():
        raise PalateError(
            f"{negative}: holds a preference classifier, not a network. Choose a run that trained the model itself."
        )
    if backbone.denoiser != "unet":
        raise PalateError(f"{negative}: a negative network guides Stable Diffusion and SDXL, not {backbone.family}.")
    own = _backbone_of(negative, "cpu")
    _require_one_base(negative, own, backbone)
    base = type(backbone)(backbone.folder).network
    positive = positive.unet if isinstance(positive, ClassifierGuided) else positive
    base.load_state_dict(negative_weights(base, positive, _network_of(negative, own), mix))
    return base


def _require_one_base(negative: str | Path, own: Backbone, backbone: Backbone) -> None:
    parts = (backbone.denoiser, "text_encoder")
    same_place = own.folder.resolve() == backbone.folder.resolve()
    if not same_place and fingerprint(own.folder, parts) != fingerprint(backbone.folder, parts):
        raise PalateError(
            f"{negative}: started from {own.folder}, but the model to sample starts from {backbone.folder}. What the"
            " negative run learned is a difference to its base model, so both must start from the same one. Choose"
            " such a run."
        )


def _resolved(sampling: Sampling, model: str | Path, folder: Path, base: dict[str, str | None]) -> Sampling:
    """With what the model's family has by default; with that of the samples that are there where the model is not any
    more."""
    try:
        backbone = _backbone_of(model, "cpu", base)
    except PalateError:
        if not (folder / "samples.json").is_file():
            raise
        made = open_samples(folder).settings
        steps, guidance, sampler = made["steps"], made["guidance"], made["sampler"]
    else:
        (steps, guidance), sampler = backbone.stock, DEFAULT_SAMPLERS[backbone.is_flow]
    return replace(
        sampling,
        steps=steps if sampling.steps is None else sampling.steps,
        guidance=guidance if sampling.guidance is None else sampling.guidance,
        sampler=sampler if sampling.sampler == "default" else sampling.sampler,
    )


def _classifier_folder(run: Path) -> Path:
    return run / "model" / "classifier"


def initial_noise(backbone: Backbone, seed: int, prompt: str, repetition: int) -> torch.Tensor:
    """The noise [C, h, w] that a picture starts from: a function of (seed, prompt, repetition), not of the model."""
    return normal(backbone.latent_shape(backbone.resolution), "sample", seed, prompt, repetition)


@flushed_denormals()
@torch.no_grad()
def generate(
    backbone: Backbone, network: torch.nn.Module, prompts: list[str], noise: torch.Tensor, sampling: Sampling
) -> Pixels:
    """Pictures uint8 [B, H, W, 3] from initial noise [B, C, h, w], by the stock diffusers pipeline. Raises PalateError
    when one of them is no number."""
    steps, guidance = backbone.stock
    steps = steps if sampling.steps is None else sampling.steps
    guidance = guidance if sampling.guidance is None else sampling.guidance
    network = at_guidance(network, guidance, sampling.classifier_scale).eval()
    made = backbone.sample(network, prompts, noise, steps, guidance, sampling.sampler)
    pictures = made.permute(0, 2, 3, 1).float().cpu().numpy()
    if not np.isfinite(pictures).all():  # which would be stored as black, and kept
        if _divides_by_nothing(backbone):
            raise PalateError(
                f"{backbone.folder / 'scheduler'}: has zero terminal SNR (rescale_betas_zero_snr), which a model that"
                f" predicts the noise cannot be sampled with: a picture is NaN with sampler {sampling.sampler}. Take it"
                " out of scheduler_config.json, or choose another --sampler."
            )
        raise PalateError(
            f"{backbone.folder}: a picture is not a number. Sample with mixed_precision bf16 or no; where that changes"
            " nothing, the model's weights are broken."
        )
    return (pictures * 255).round().astype(np.uint8)


def _divides_by_nothing(backbone: Backbone) -> bool:
    """Whether the first step of sampling divides by the share of the picture in its noise, and that is 0."""
    if backbone.is_flow or backbone.noise_schedule.config.prediction_type != "epsilon":
        return False
    return bool(component_config(backbone.folder, "scheduler").get("rescale_betas_zero_snr"))


def _checked(sampling: Sampling) -> Sampling:
    if sampling.sampler not in ("default", *SAMPLERS):
        raise PalateError(
            f"sampler {sampling.sampler!r} is not one of default, {', '.join(SAMPLERS)}"
            f"{did_you_mean(sampling.sampler, SAMPLERS)}"
        )
    for name in ("steps", "repetitions"):
        if (value := getattr(sampling, name)) is not None and value < 1:
            raise PalateError(f"{name}: {value}, but at least 1 is needed.")
    if not 0 <= sampling.negative_mix <= 1:
        raise PalateError(f"negative_mix: {sampling.negative_mix} is not between 0 and 1.")
    if not math.isfinite(sampling.classifier_scale):
        raise PalateError(f"classifier_scale: {sampling.classifier_scale} is not a finite number.")
    if sampling.mixed_precision not in PRECISIONS:
        raise PalateError(
            f"mixed_precision: {sampling.mixed_precision!r} is not one of {', '.join(PRECISIONS)}"
            f"{did_you_mean(sampling.mixed_precision, PRECISIONS)}"
        )
    if sampling.negative is None and sampling.negative_mix:
        raise PalateError(
            "negative_mix says where a negative network stands, but there is none. Name its run: --negative RUN."
        )
    if sampling.negative is not None and sampling.guidance is not None and not sampling.guidance > 1:
        raise PalateError(
            f"guidance {sampling.guidance:g} has no unconditional half, which the negative network would predict. "
            "Sample with guidance above 1, or leave out the negative run."
        )
    return sampling


def _refuse_others(samples: Samples) -> Samples:
    """The samples that are there. PalateError where they were made otherwise, or of older weights than the model has
    now."""
    before = open_samples(samples.folder)
    differ = different_settings(samples.settings, before.settings)
    told = [
        name
        for name in differ
        if name not in ("model", "negative") or not same_model(before, name, samples.settings[name])
    ]
    if told:
        raise PalateError(
            f"{samples.folder} holds samples made otherwise (different: {', '.join(told)}). Choose another folder."
        )
    if older := trained_since(before):
        raise PalateError(
            f"{samples.folder} holds pictures of older weights: {older} was trained further since. Delete that "
            "folder, then the same command makes them anew; or choose another one to keep both."
        )
    return before
