"""Stable Diffusion 3, FLUX.1, FLUX.2-klein, PixArt, Qwen-Image and Sana: what our interface says of them against diffusers' own pipelines."""

import inspect
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtSigmaPipeline,
)
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.training_utils import compute_density_for_timestep_sampling
from families_flow import (
    make_flux,
    make_flux2_klein,
    make_flux_schnell,
    make_pixart,
    make_qwen_image,
    make_sana,
    make_sd3,
    make_sd35,
)
from scipy.stats import logistic, norm
from tiny import refusal

from palate.backbones import Backbone, conditioning
from palate.backbones.flow import FlowMatching, static_shift
from palate.backbones.flux import Flux
from palate.backbones.flux2 import Flux2Klein
from palate.backbones.folders import fingerprint
from palate.backbones.pixart import PixArt
from palate.backbones.qwen_image import QwenImage
from palate.backbones.sana import Sana
from palate.backbones.stable_diffusion_3 import StableDiffusion3

FAMILIES = {
    "sd3": (StableDiffusion3, make_sd3),
    "sd3-without-t5": (StableDiffusion3, lambda folder: make_sd3(folder, t5=False)),
    "sd35": (StableDiffusion3, make_sd35),
    "flux": (Flux, make_flux),
    "flux-schnell": (Flux, make_flux_schnell),
    "flux2-klein": (Flux2Klein, make_flux2_klein),
    "flux2-klein-distilled": (Flux2Klein, lambda folder: make_flux2_klein(folder, is_distilled=True)),
    "pixart": (PixArt, make_pixart),
    "pixart-alpha": (PixArt, lambda folder: make_pixart(folder, alpha=True)),
    "qwen-image": (QwenImage, make_qwen_image),
    "sana": (Sana, make_sana),
}
FLOW = [name for name in FAMILIES if not name.startswith("pixart")]
PROMPTS = ["a red circle", "a blue star and a very long story of green squares"]
WITHOUT_GUIDANCE = ("flux", "flux-schnell", "flux2-klein-distilled")  # no unconditional half
GUIDANCE, STEPS, SIZE = 3.5, 3, 64

everywhere = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: make(root / name) for name, (_, make) in FAMILIES.items()}


@pytest.fixture(scope="module")
def backbones(folders):
    return {name: kind(folders[name]) for name, (kind, _) in FAMILIES.items()}


@pytest.fixture(scope="module")
def stock(folders):
    loaded = {}
    for name, folder in folders.items():
        left_out = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3-without-t5" else {}
        loaded[name] = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, **left_out)
        loaded[name].set_progress_bar_config(disable=True)
    return loaded


def noise_of(backbone, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, *backbone.latent_shape(SIZE), generator=torch.Generator().manual_seed(seed))


def told(backbone, prompts: list[str]) -> dict[str, torch.Tensor]:
    """Everything that a network is told of these prompts and an image that fills the frame."""
    image = conditioning.expand(backbone.image_conditioning(SIZE, SIZE, SIZE), len(prompts))
    return backbone.encode_prompts(prompts) | image


def stock_options(backbone, pipeline) -> dict:
    options = {"max_sequence_length": backbone.max_sequence_length, "use_resolution_binning": False}
    return {k: v for k, v in options.items() if k in inspect.signature(pipeline.__call__).parameters}


def stock_image(backbone, pipeline, noise: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
    """The pipeline's own picture [B, 3, H, W]."""
    packed = isinstance(backbone, Flux | QwenImage)
    latents = pipeline._pack_latents(noise, *noise.shape) if packed else noise
    guidance = {"guidance_scale": GUIDANCE}
    if isinstance(backbone, QwenImage):
        guidance = {"true_cfg_scale": GUIDANCE, "negative_prompt": ["", ""]}
    return pipeline(
        prompt=PROMPTS, latents=latents, num_inference_steps=steps, **guidance, height=SIZE, width=SIZE, output_type="pt",
        **stock_options(backbone, pipeline),
    ).images  # fmt: skip


def rescaled(given: torch.Tensor, guided: torch.Tensor) -> torch.Tensor:
    """Qwen-Image: in every 2x2 patch, guidance leaves the prediction as long as it was without. The factor [B, 1, h, w]."""
    length, guided_length = (
        torch.nn.functional.avg_pool2d((4 * tensor**2).sum(1, keepdim=True), 2).sqrt() for tensor in (given, guided)
    )
    return (length / guided_length).repeat_interleave(2, -1).repeat_interleave(2, -2)


def own_latents(backbone, latents: torch.Tensor) -> torch.Tensor:
    """Latents of the network taken back to those of the autoencoder, written out."""
    config = backbone.vae.config
    if isinstance(backbone, QwenImage):
        mean, std = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        return (latents * std + mean).unsqueeze(2)  # a film of one frame
    if not isinstance(backbone, Flux2Klein):
        return latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0)
    bn = backbone.vae.bn
    patches = latents * (bn.running_var + bn.eps).sqrt().view(1, -1, 1, 1) + bn.running_mean.view(1, -1, 1, 1)
    return torch.nn.functional.pixel_shuffle(patches, 2)


# --- sampling --------------------------------------------------------------------------------------------------------


@everywhere
@torch.no_grad()
def test_steps_of_predict_make_the_pipelines_image(family, backbones, stock, monkeypatch):
    backbone, pipeline = backbones[family], stock[family]
    monkeypatch.setattr(backbone, "guidance", GUIDANCE, raising=False)
    noise = noise_of(backbone)
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    if isinstance(backbone, Flux):  # the shift of FLUX: exp(mu), linear in the number of tokens from 256 to 4096
        tokens = (SIZE // 16) ** 2
        mu = 0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=mu)
    elif isinstance(backbone, QwenImage):  # the same with what its scheduler says
        mu = 0.5 + ((SIZE // 16) ** 2 - 256) * (0.9 - 0.5) / (8192 - 256)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=mu)
    elif isinstance(backbone, Flux2Klein):
        mu = compute_empirical_mu((SIZE // 16) ** 2, STEPS)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=mu)
    else:
        scheduler.set_timesteps(STEPS)

    latents = noise
    given, without = told(backbone, PROMPTS), told(backbone, [""] * 2)
    for timestep in scheduler.timesteps:
        prediction = backbone.predict(backbone.network, latents, timestep.expand(2), given)
        if family not in WITHOUT_GUIDANCE:
            unconditional = backbone.predict(backbone.network, latents, timestep.expand(2), without)
            guided = unconditional + GUIDANCE * (prediction - unconditional)
            prediction = guided * rescaled(prediction, guided) if isinstance(backbone, QwenImage) else guided
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    decoded = backbone.vae.decode(own_latents(backbone, latents)).sample
    own = (decoded.reshape(2, 3, SIZE, SIZE) / 2 + 0.5).clamp(0, 1)

    assert torch.allclose(own, stock_image(backbone, pipeline, noise), atol=1e-5)
    assert own.std() > 0.05  # not a clamped picture that equals any other


@everywhere
def test_sample_is_the_pipelines_image(family, backbones, stock):
    backbone = backbones[family]
    noise = noise_of(backbone)
    own = backbone.sample(backbone.network, PROMPTS, noise, STEPS, GUIDANCE, "default")
    assert own.shape == (2, 3, SIZE, SIZE)
    assert torch.allclose(own, stock_image(backbone, stock[family], noise), atol=1e-5)


def test_guidance_of_flux_is_the_embedded_one(backbones):
    dev, schnell = backbones["flux"], backbones["flux-schnell"]
    for backbone, changes in ((dev, True), (schnell, False)):
        weak, strong = (
            backbone.sample(backbone.network, PROMPTS, noise_of(backbone), 1, guidance, "default")
            for guidance in (1.0, 9.0)
        )
        assert torch.equal(weak, strong) is not changes


@pytest.mark.parametrize("family", ["sd3", "flux", "sana"])
def test_euler_is_flow_match_euler_with_the_folders_shift(family, backbones, stock):
    backbone, pipeline = backbones[family], stock[family]
    own = backbone.sample(backbone.network, PROMPTS, noise_of(backbone), STEPS, GUIDANCE, "euler")
    before = pipeline.scheduler
    if family == "sana":
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=before.config.flow_shift)
    try:
        assert torch.allclose(own, stock_image(backbone, pipeline, noise_of(backbone)), atol=1e-5)
    finally:
        pipeline.scheduler = before


@pytest.mark.parametrize(("sampler", "kind"), [("ddim", DDIMScheduler), ("euler", EulerDiscreteScheduler)])
def test_pixart_takes_the_samplers_of_its_schedule(sampler, kind, backbones, stock):
    backbone, pipeline = backbones["pixart"], stock["pixart"]
    own = backbone.sample(backbone.network, PROMPTS, noise_of(backbone), STEPS, GUIDANCE, sampler)
    before, pipeline.scheduler = pipeline.scheduler, kind.from_config(pipeline.scheduler.config)
    noise = noise_of(backbone)
    try:
        assert torch.allclose(own, stock_image(backbone, pipeline, noise), atol=1e-5)
    finally:
        pipeline.scheduler = before


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_another_sampler_is_refused(family, backbones):
    backbone = backbones[family]
    line = refusal(lambda: backbone.sample(None, PROMPTS, noise_of(backbone), STEPS, GUIDANCE, "ddim"))
    assert "'ddim'" in line and "default, euler" in line


# --- timesteps and noise ---------------------------------------------------------------------------------------------


def sigmas_of_all_draws(backbone, **settings) -> np.ndarray:
    for name, value in settings.items():
        setattr(backbone, name, value)
    return (backbone.timestep(torch.arange(1000)) / 1000).double().numpy()


@pytest.mark.parametrize(
    ("family", "shift"),
    [("sd3", 3.0), ("flux", 1.0), ("flux-schnell", 1.0), ("flux2-klein", 1.0), ("qwen-image", 1.0), ("sana", 3.0)],
)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.6, 0.5)])
def test_timesteps_are_logit_normal_then_shifted(family, shift, mean, std, folders):
    backbone = FAMILIES[family][0](folders[family])
    sigmas = sigmas_of_all_draws(backbone, logit_mean=mean, logit_std=std)
    share_below = np.arange(1, 1000) / 1000
    between = (sigmas[1:] + sigmas[:-1]) / 2
    unshifted = between / (shift - (shift - 1) * between)
    cdf = norm.cdf((logistic.ppf(unshifted) + mean) / std)  # the share of sigmas below, in closed form
    assert np.abs(cdf - share_below).max() < 2e-4
    assert (np.diff(sigmas) > 0).all() and 0 < sigmas[0] and sigmas[-1] < 1


def test_timesteps_without_weighting_are_uniform_then_shifted(folders):
    sigmas = sigmas_of_all_draws(StableDiffusion3(folders["sd3"]), weighting_scheme="none")
    uniform = (np.arange(1000) + 0.5) / 1000
    np.testing.assert_allclose(sigmas, 3 * uniform / (1 + 2 * uniform), rtol=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.8, 0.7)])
def test_timesteps_are_distributed_as_in_diffusers_training_scripts(mean, std, folders, stock):
    backbone = StableDiffusion3(folders["sd3"])
    own = np.quantile(sigmas_of_all_draws(backbone, logit_mean=mean, logit_std=std), np.linspace(0.05, 0.95, 19))
    density = compute_density_for_timestep_sampling(
        "logit_normal", 200_000, mean, std, generator=torch.Generator().manual_seed(0)
    )
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0).timesteps[(density * 1000).long()] / 1000
    np.testing.assert_allclose(own, np.quantile(theirs, np.linspace(0.05, 0.95, 19)), atol=6e-3)


def test_settings_of_timesteps_that_cannot_be_are_refused(folders):
    backbone = StableDiffusion3(folders["sd3"])
    backbone.weighting_scheme = "mode"
    assert "logit_normal, none" in refusal(lambda: backbone.timestep(torch.arange(3)))
    backbone.weighting_scheme, backbone.logit_std = "logit_normal", 0.0
    assert "logit_std: 0.0" in refusal(lambda: backbone.timestep(torch.arange(3)))


def test_static_shift_is_that_of_the_schedulers_own_sigmas(stock):
    for family in ("sd3", "flux", "flux-schnell"):
        scheduler = stock[family].scheduler
        shift, u = static_shift(scheduler.config), np.arange(1, 1001) / 1000
        sigmas = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config).sigmas.numpy()[::-1]
        np.testing.assert_allclose(shift * u / (1 + (shift - 1) * u), sigmas, rtol=1e-5)


@pytest.mark.parametrize("family", FLOW)
def test_noise_and_velocity_lead_back_to_the_image(family, backbones):
    backbone = backbones[family]
    latents, noise = noise_of(backbone, 1), noise_of(backbone, 2)
    timestep = torch.tensor([250.0, 999.5])
    sigma = torch.tensor([0.25, 0.9995]).view(2, 1, 1, 1)
    noisy, target = (
        backbone.add_noise(latents.half(), noise, timestep),
        backbone.regression_target(latents, noise, timestep),
    )
    assert noisy.dtype == target.dtype == torch.float32
    assert torch.allclose(noisy, (1 - sigma) * latents.half().float() + sigma * noise, atol=1e-6)
    noisy = backbone.add_noise(latents, noise, timestep)
    assert torch.allclose(noisy - sigma * target, latents, atol=1e-5)
    assert torch.allclose(noisy + (1 - sigma) * target, noise, atol=1e-5)


def test_pixart_noises_as_its_scheduler_and_predicts_the_noise(backbones, stock):
    backbone = backbones["pixart"]
    latents, noise, drawn = noise_of(backbone, 1), noise_of(backbone, 2), torch.tensor([3, 990])
    timestep = backbone.timestep(drawn)
    assert torch.equal(timestep, drawn)
    expected = DDIMScheduler.from_config(stock["pixart"].scheduler.config).add_noise(latents, noise, timestep)
    assert torch.allclose(backbone.add_noise(latents, noise, timestep), expected, atol=1e-6)
    assert torch.equal(backbone.regression_target(latents, noise, timestep), noise)


# --- encoding --------------------------------------------------------------------------------------------------------


@everywhere
@torch.no_grad()
def test_latents_are_what_the_pipeline_decodes(family, backbones, stock):
    backbone, pipeline = backbones[family], stock[family]
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    latents = backbone.encode_images(images)
    assert latents.shape == (2, *backbone.latent_shape(SIZE)) and latents.dtype == torch.float32
    encoded = pipeline.vae.encode(images.unsqueeze(2) if family == "qwen-image" else images)
    mean = encoded.latent if family == "sana" else encoded.latent_dist.mode()
    assert torch.allclose(own_latents(backbone, latents), mean, atol=1e-5)
    assert not torch.allclose(latents.flatten(), mean.flatten(), atol=1e-2)


@everywhere
@torch.no_grad()
def test_embeddings_are_the_pipelines(family, backbones, stock):
    backbone, pipeline = backbones[family], stock[family]
    length, own = backbone.max_sequence_length, backbone.encode_prompts([*PROMPTS, ""])
    masks = None
    if family.startswith("sd3"):
        given, without, pooled, _ = pipeline.encode_prompt(PROMPTS, None, None, max_sequence_length=length)
        assert torch.equal(own["pooled"][:2], pooled)
    elif family == "qwen-image":  # padded to one length for all
        given, mask = pipeline.encode_prompt(PROMPTS, max_sequence_length=length)
        without, _ = pipeline.encode_prompt("", max_sequence_length=length)
        given, without = (torch.nn.functional.pad(t, (0, 0, 0, length - t.shape[1])) for t in (given, without))
        masks = torch.zeros(3, length, dtype=torch.int64)
        masks[:2, : mask.shape[1]] = mask
        masks[2, : int(own["mask"][2].sum())] = 1
        assert 0 < masks[2].sum() < masks[0].sum() < length
    elif family.startswith("flux2"):
        given, _ = pipeline.encode_prompt(PROMPTS, max_sequence_length=length)
        without, _ = pipeline.encode_prompt("", max_sequence_length=length)
    elif family.startswith("flux"):
        given, pooled, _ = pipeline.encode_prompt(PROMPTS, max_sequence_length=length)
        without = pipeline.encode_prompt([""], max_sequence_length=length)[0]
        assert torch.allclose(own["pooled"][:2], pooled, atol=1e-6)
    else:
        words = {"complex_human_instruction": backbone.instruction} if family == "sana" else {}
        given, mask, without, empty = pipeline.encode_prompt(PROMPTS, True, max_sequence_length=length, **words)
        masks = torch.cat([mask, empty[:1]])
    assert torch.allclose(own["embeddings"], torch.cat([given, without[:1]]), atol=1e-6)
    if masks is not None:
        assert torch.equal(own["mask"], masks)


def test_a_long_prompt_is_cut_without_a_word(backbones, capfd):
    for backbone in backbones.values():
        backbone.encode_prompts(["a red circle " * 50])
    assert "truncated" not in capfd.readouterr().err


def test_stock_lengths_hold_where_the_tokenizer_allows_them(folders, tmp_path):
    """256 tokens of T5 for Stable Diffusion 3, as its pipeline has them by default."""
    folder = tmp_path / "long"
    shutil.copytree(folders["sd3"], folder)
    config = folder / "tokenizer_3" / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"model_max_length": 16', '"model_max_length": 512'))
    backbone = StableDiffusion3(folder)
    assert backbone.max_sequence_length == 256
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    default = pipeline.encode_prompt(PROMPTS, None, None)[0]
    assert torch.allclose(backbone.encode_prompts(PROMPTS)["embeddings"], default, atol=1e-5)


# --- predictions -----------------------------------------------------------------------------------------------------


@everywhere
@torch.no_grad()
def test_a_batch_is_predicted_as_its_rows(family, backbones):
    backbone = backbones[family]
    noisy, given = noise_of(backbone, 4), told(backbone, PROMPTS)
    timestep = backbone.timestep(torch.tensor([100, 700]))
    together = backbone.predict(backbone.network, noisy, timestep, given)
    rows = [slice(i, i + 1) for i in range(2)]
    alone = [
        backbone.predict(backbone.network, noisy[row], timestep[row], conditioning.take(given, row)) for row in rows
    ]
    assert together.shape == noisy.shape
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    swapped = backbone.predict(backbone.network, noisy, timestep, conditioning.take(given, [1, 0]))
    assert (swapped - together).abs().amax(dim=(1, 2, 3)).min() > 1e-4  # what is told matters, in every row


def test_pixart_alpha_at_1024_pixels_is_told_sizes(backbones):
    told_size = backbones["pixart-alpha"].image_conditioning(1500, 1000, 1024)
    assert told_size["resolution"].tolist() == [[1024, 1024]] and told_size["aspect_ratio"].tolist() == [[1]]
    assert backbones["pixart"].image_conditioning(1500, 1000, 1024) == {}


@torch.no_grad()
def test_flux_tells_its_guidance_to_a_distilled_network(backbones, monkeypatch):
    for family, changes in (("flux", True), ("flux-schnell", False)):
        backbone, predictions = backbones[family], []
        noisy, given = noise_of(backbone), told(backbone, PROMPTS)
        for guidance in (1.0, 6.0):
            monkeypatch.setattr(backbone, "guidance", guidance)
            predictions.append(backbone.predict(backbone.network, noisy, torch.tensor([500.0, 500.0]), given))
        assert torch.equal(*predictions) is not changes


# --- sizes and bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "factor", "channels", "resolution"),
    [("sd3", 16, 16, 64), ("flux", 16, 4, 64), ("flux2-klein", 16, 16, 64), ("pixart", 16, 4, 64), ("pixart-alpha", 16, 4, 1024), ("qwen-image", 16, 4, 1024), ("sana", 32, 8, 64)],
)  # fmt: skip
def test_sizes(family, factor, channels, resolution, backbones):
    backbone = backbones[family]
    side = 128 // (factor if family in ("sana", "flux2-klein") else factor // 2)
    assert (backbone.vae_factor, backbone.latent_channels, backbone.resolution) == (factor, channels, resolution)
    assert backbone.latent_shape(128) == (channels, side, side)


def test_more_pixels_than_there_are_positions_are_refused(backbones):
    assert "128 pixels at most" in refusal(lambda: backbones["sd3"].latent_shape(144))


def test_a_component_that_does_not_load_is_refused(folders, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(folders["sd3"], folder)
    (folder / "text_encoder_3" / "model.safetensors").write_bytes(b"no weights")
    assert "text_encoder_3: could not be loaded" in refusal(lambda: StableDiffusion3(folder).encode_prompts(["a"]))
    (folder / "vae" / "config.json").unlink()
    assert "config.json: missing or not readable" in refusal(lambda: StableDiffusion3(folder))


def test_a_tokenizer_without_vocabulary_is_refused(folders, tmp_path):
    """transformers would make one that knows no word, and every prompt would read the same."""
    folder = tmp_path / "wordless"
    shutil.copytree(folders["pixart"], folder)
    (folder / "tokenizer" / "spiece.model").unlink()
    assert "tokenizer: no vocabulary" in refusal(lambda: PixArt(folder).encode_prompts(["a"]))


@pytest.mark.parametrize("module", ["sentencepiece", "google.protobuf"])
def test_a_vocabulary_that_sentencepiece_alone_reads_names_the_extra_where_it_is_missing(module, folders, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    told = refusal(lambda: PixArt(folders["pixart"]).encode_prompts(["a"]))
    assert f"{module} is not installed. pip install 'palate[sentencepiece]'" in told
    StableDiffusion3(folders["sd3"]).encode_prompts(["a"])  # its folder has tokenizer.json


@pytest.mark.parametrize(
    ("family", "file"), [("pixart", "tokenizer/spiece.model"), ("flux2-klein", "tokenizer/chat_template.jinja")]
)
def test_what_a_tokenizer_is_made_of_is_part_of_its_fingerprint(family, file, folders, tmp_path):
    """Otherwise a cache of encoded prompts would be taken for that of another tokenizer."""
    folder, encoders = tmp_path / "other", FAMILIES[family][0].encoders
    shutil.copytree(folders[family], folder)
    before = fingerprint(folder, encoders)
    (folder / file).write_bytes((folder / file).read_bytes() + b" ")
    assert fingerprint(folders[family], encoders) == before != fingerprint(folder, encoders)


def test_a_schedule_that_pixart_does_not_have_is_refused(folders, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(folders["pixart"], folder)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"epsilon"', '"v_prediction"'))
    assert "'v_prediction'" in refusal(lambda: PixArt(folder).noise_schedule)


STOCK = {
    "sd3": (28, 7.0), "flux": (28, 3.5), "flux-schnell": (4, 1.0), "flux2-klein": (50, 4.0), "flux2-klein-distilled": (4, 1.0),
    "pixart": (20, 4.5), "qwen-image": (50, 4.0), "sana": (20, 4.5),
}  # fmt: skip


def test_a_family_is_sampled_with_the_steps_and_guidance_it_was_made_for(backbones):
    assert {family: backbones[family].stock for family in STOCK} == STOCK


def test_pixart_reads_captions_in_sampling_as_in_training(backbones, monkeypatch):
    """The stock pipeline would clean them of what looks like a web page's."""
    told, encode = [], PixArtSigmaPipeline.encode_prompt

    def remembered(*given, **named):
        told.append(named["clean_caption"])
        return encode(*given, **named)

    monkeypatch.setattr(PixArtSigmaPipeline, "encode_prompt", remembered)
    pixart = backbones["pixart"]
    noise = torch.randn(1, *pixart.latent_shape(SIZE))
    pixart.sample(pixart.network, ["a <b>red</b> circle"], noise, 1, 1.0, "default")
    assert told == [False]


def test_a_family_costs_less_than_100_lines():
    for kind in (StableDiffusion3, Flux, Flux2Klein, PixArt, QwenImage, Sana):
        assert len(Path(inspect.getfile(kind)).read_text().splitlines()) < 100


@everywhere
def test_a_family_has_all_that_the_interface_names(family, backbones):
    backbone = backbones[family]
    missing = [name for name in Backbone.__annotations__ if not hasattr(backbone, name)]
    assert isinstance(backbone, Backbone) and missing == []


def test_a_family_that_lacks_a_method_cannot_be_made(backbones):
    class Unfinished(FlowMatching):
        """All but `encode_prompts` and `predict`."""

        network = None

    with pytest.raises(TypeError, match="encode_prompts.*predict"):
        Unfinished(backbones["flux"].folder)


def test_what_only_a_unet_has_is_refused_in_one_line(backbones):
    flux = backbones["flux"]
    assert "no noise schedule" in refusal(lambda: flux.noise_schedule)
    assert "does not decode" in refusal(lambda: flux.decode_latents(torch.zeros(1, *flux.latent_shape(SIZE))))
    assert "schedulers of its own" in refusal(lambda: flux.pipeline(flux.network, DDIMScheduler))


@everywhere
def test_encoders_are_freed_and_load_again(family, backbones):
    backbone = backbones[family]
    before = backbone.encode_prompts(PROMPTS)
    assert backbone.free_encoders() and not set(backbone.kept) & vars(backbone).keys()
    assert not backbone.free_encoders()
    again = backbone.encode_prompts(PROMPTS)
    assert all(torch.equal(again[name], tensor) for name, tensor in before.items())
