"""Guidance inside the stock pipeline equals loops written out by hand, for both kinds of prediction."""

import copy

import peft
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PROMPTS

from palate.backbones import StableDiffusion, load_backbone
from palate.backbones.guidance import (
    ClassifierGuided,
    NegativeGuided,
    abar_at,
    at_guidance,
    halves,
    negative_weights,
    plain_weights,
    prediction_shift,
)  # fmt: skip
from palate.errors import PalateError
from palate.sampling.samples import SAMPLERS, initial_noise

STEPS, GUIDANCE = 4, 3.0
BOTH = pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
TINY = dict(
    sample_size=4, in_channels=2, out_channels=2, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def backbones(pipeline_folder, v_pipeline_folder) -> dict[str, StableDiffusion]:
    return {"epsilon": load_backbone(str(pipeline_folder)), "v_prediction": load_backbone(str(v_pipeline_folder))}


class Linear(torch.nn.Module):
    """f(x) = <slope, x>, whose gradient is the slope everywhere; counts its calls."""

    def __init__(self, slope: torch.Tensor):
        super().__init__()
        self.slope, self.calls = slope, 0

    def forward(self, noisy, timestep, embeddings):
        self.calls += 1
        return (noisy * self.slope).flatten(1).sum(dim=1)


class Analytic(torch.nn.Module):
    """A network in place of a UNet, given as a function (noisy, timestep, embeddings) -> prediction."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, noisy, timestep, embeddings, return_dict=True):
        return (self.function(noisy, timestep, embeddings),)


def tiny_unet(seed: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(**TINY)


def another(unet: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """A copy whose weights all differ a little."""
    torch.manual_seed(seed)
    changed = copy.deepcopy(unet)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return changed


def with_adapters(unet: torch.nn.Module, seed: int, scale: float = 2.0) -> torch.nn.Module:
    """Adapters on linear and convolutional layers, none of them 0."""
    torch.manual_seed(seed)
    unet.add_adapter(peft.LoraConfig(r=2, lora_alpha=2 * scale, target_modules=["to_q", "to_out.0", "conv1"]))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return unet


def slope_of(backbone: StableDiffusion) -> torch.Tensor:
    return torch.linspace(-1, 1, backbone.latent_channels * 64).view(1, -1, 8, 8)


def noise_of(backbone: StableDiffusion) -> torch.Tensor:
    return torch.stack([initial_noise(backbone, 0, prompt, 0) for prompt in PROMPTS])


@torch.no_grad()
def sampled(backbone, unet, sampler: str = "ddim", guidance: float = GUIDANCE) -> torch.Tensor:
    """Final latents [3, C, h, w] of the stock pipeline."""
    return backbone.pipeline(unet.eval(), SAMPLERS[sampler])(
        list(PROMPTS), latents=noise_of(backbone), num_inference_steps=STEPS, guidance_scale=guidance, output_type="latent"
    ).images  # fmt: skip


@torch.no_grad()
def by_hand(backbone, unconditional, conditional, guidance=GUIDANCE, eta=0.0, slope=0.0) -> torch.Tensor:
    """DDIM written out, in noise whatever the networks predict: u + s·(c - eta·sqrt(1 - abar)·slope - u)."""
    empty, prompts = (backbone.encode_prompts(texts)["embeddings"] for texts in ([""] * 3, list(PROMPTS)))
    abars, kind = backbone.noise_schedule.alphas_cumprod, backbone.noise_schedule.config.prediction_type
    x, stride = noise_of(backbone), backbone.num_timesteps // STEPS
    for t in reversed(range(1, backbone.num_timesteps, stride)):  # the stored schedule starts at 1 (steps_offset)
        abar, before = abars[t], abars[t - stride] if t >= stride else abars[0]

        def noise(unet, embeddings, x=x, t=t, abar=abar):
            prediction = unet(x, t, embeddings, return_dict=False)[0]
            return prediction if kind == "epsilon" else abar.sqrt() * prediction + (1 - abar).sqrt() * x

        u, c = noise(unconditional, empty), noise(conditional, prompts)
        c = c - eta * (1 - abar).sqrt() * slope
        eps = u + guidance * (c - u) if guidance > 1 else c
        x_0 = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
        x = before.sqrt() * x_0 + (1 - before).sqrt() * eps
    return x


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


# --- Diffusion-NPO ---------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("guidance", [1.5, 7.5])
def test_the_negative_network_takes_the_unconditional_half_step_by_step(kind, guidance, backbones):
    backbone = backbones[kind]
    negative = another(backbone.network)
    latents = sampled(backbone, NegativeGuided(backbone.network, negative), guidance=guidance)
    close(latents, by_hand(backbone, negative, backbone.network, guidance))
    exchanged = by_hand(backbone, backbone.network, negative, guidance)
    assert (latents - exchanged).abs().max() > 0.01 * exchanged.abs().max()  # so that the halves cannot be mixed up


@BOTH
def test_the_positive_network_as_its_own_negative_is_plain_guidance(kind, backbones):
    backbone = backbones[kind]
    close(sampled(backbone, NegativeGuided(backbone.network, backbone.network)), sampled(backbone, backbone.network))


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("adapters", ["neither", "positive", "npo", "both"])
def test_negative_weights_are_the_published_sum_for_full_runs_and_adapters(mix, adapters):
    base = tiny_unet(0)
    positive = with_adapters(tiny_unet(0), 1) if adapters in ("positive", "both") else another(base, 1)
    npo = with_adapters(tiny_unet(0), 2, scale=0.5) if adapters in ("npo", "both") else another(base, 2)
    weights = negative_weights(base, positive, npo, mix)

    def fused(unet: torch.nn.Module) -> dict[str, torch.Tensor]:  # as diffusers itself merges adapters
        if unet is base or not hasattr(unet, "peft_config"):
            return unet.state_dict()
        unet.fuse_lora()
        unet.unload_lora()
        return unet.state_dict()

    b, p, n = (fused(unet) for unet in (base, positive, npo))
    assert weights.keys() == b.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(
            weight, mix * b[name] + (1 - mix) * p[name] + n[name] - b[name], rtol=1e-5, atol=1e-6
        )
    another(base, 3).load_state_dict(weights)


def test_an_npo_run_that_learned_nothing_leaves_base_or_positive_bit_by_bit():
    base, positive = tiny_unet(0), tiny_unet(1)
    for mix, network in [(0.0, positive), (1.0, base)]:
        weights = negative_weights(base, positive, tiny_unet(0), mix)
        assert all(torch.equal(weight, network.state_dict()[name]) for name, weight in weights.items())


def test_theta_neg_equal_to_the_base_guides_as_the_base_by_hand(backbones):
    backbone = backbones["epsilon"]
    base, positive = backbone.network, another(backbone.network)
    negative = another(base)
    negative.load_state_dict(negative_weights(base, positive, base, mix=1.0))
    close(sampled(backbone, NegativeGuided(positive, negative)), by_hand(backbone, base, positive))


def test_plain_weights_predict_what_adapters_predict_and_change_nothing():
    adapted, plain = with_adapters(tiny_unet(0), 1), tiny_unet(0)
    inputs = torch.randn((2, 2, 4, 4)), 10, torch.randn((2, 3, 4))
    with torch.no_grad():
        before = adapted(*inputs).sample
        without = plain(*inputs).sample
        plain.load_state_dict(plain_weights(adapted))
        assert torch.equal(adapted(*inputs).sample, before)
        torch.testing.assert_close(plain(*inputs).sample, before, rtol=1e-4, atol=1e-5)
        fused_before = plain_weights(adapted)
        adapted.fuse_lora()  # merged adapters must not be added once more
        torch.testing.assert_close(plain_weights(adapted), fused_before, rtol=1e-5, atol=1e-6)
    assert (before - without).abs().max() > 1e-2


def test_weights_that_cannot_be_mixed_are_refused():
    base = tiny_unet(0)
    for mix in (-0.1, 1.1, float("nan")):
        with pytest.raises(PalateError, match="not between 0"):
            negative_weights(base, base, base, mix)
    wider = UNet2DConditionModel(**{**TINY, "cross_attention_dim": 6})
    with pytest.raises(PalateError, match="differ in their layers"):
        negative_weights(base, base, wider)


# --- PC-Diffusion ----------------------------------------------------------------------------------------------------


def guided(backbone, classifier, unet=None, **options) -> ClassifierGuided:
    schedule = backbone.noise_schedule
    return ClassifierGuided(
        unet or backbone.network, classifier, schedule.alphas_cumprod, schedule.config.prediction_type, **options
    )


@BOTH
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_linear_classifier_shifts_every_step_as_the_formula_says(kind, guidance, backbones):
    backbone = backbones[kind]
    slope = slope_of(backbone)
    network = at_guidance(guided(backbone, Linear(slope)), guidance, classifier_scale=0.5)
    latents = sampled(backbone, network, guidance=guidance)
    close(latents, by_hand(backbone, backbone.network, backbone.network, guidance, eta=0.5, slope=slope))
    plain = by_hand(backbone, backbone.network, backbone.network, guidance)
    assert ((latents - plain) * slope).sum() > 0.1 * plain.norm() * slope.norm()  # toward what f prefers


@BOTH
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_scale_zero_is_the_base_model_bit_by_bit_and_never_asks_the_classifier(kind, sampler, backbones):
    backbone, classifier = backbones[kind], Linear(slope_of(backbones[kind]))
    network = guided(backbone, classifier)
    base = sampled(backbone, backbone.network, sampler)
    assert torch.equal(sampled(backbone, at_guidance(network, GUIDANCE, 0.0), sampler), base)
    assert classifier.calls == 0
    tilted = sampled(backbone, at_guidance(network, GUIDANCE, 0.1), sampler)
    assert tilted.isfinite().all() and ((tilted - base) * classifier.slope).sum() > 0


@BOTH
def test_the_conditional_half_follows_its_own_prompts_and_times_and_the_other_half_stays(kind, backbones):
    backbone = backbones[kind]
    slope, abars = slope_of(backbone), backbone.noise_schedule.alphas_cumprod
    embeddings = backbone.encode_prompts(["", "", "", *PROMPTS])["embeddings"]
    noisy, timestep = noise_of(backbone).repeat(2, 1, 1, 1), torch.tensor([1, 500, 999]).repeat(2)

    class Prompted(torch.nn.Module):
        def forward(self, x, t, c):
            return c.mean(dim=(1, 2)) * t * (x * slope).flatten(1).sum(dim=1)

    with torch.no_grad():
        before = backbone.network(noisy, timestep, embeddings).sample
        after = guided(backbone, Prompted())(noisy, timestep, embeddings).sample
        whole = guided(backbone, Prompted(), doubled=False)(noisy[3:], timestep[3:], embeddings[3:]).sample
    assert torch.equal(after[:3], before[:3])
    abar = abars[timestep[3:]].view(-1, 1, 1, 1)
    gradient = (embeddings[3:].mean(dim=(1, 2)) * timestep[3:]).view(-1, 1, 1, 1) * slope
    expected = -(1 - abar).sqrt() * gradient / (1 if kind == "epsilon" else abar.sqrt())
    torch.testing.assert_close(after[3:] - before[3:], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after[3:], whole, rtol=1e-4, atol=1e-4)


@BOTH
def test_scale_one_samples_the_model_tilted_by_exp_f(kind, backbones):
    """From N(0, 1) and f(x_t) = log E[exp(a·x_0) | x_t] guidance makes N(a, 1), whose mean is a."""
    a, abars = 0.7, backbones[kind].noise_schedule.alphas_cumprod

    def best_prediction(x, t, _):  # of the noise sqrt(1 - abar)·x_t; of the velocity 0
        return (1 - abars[t]).sqrt() * x if kind == "epsilon" else torch.zeros_like(x)

    class Tilt(torch.nn.Module):
        def forward(self, noisy, timestep, embeddings):
            return a * abars[timestep].sqrt() * noisy.flatten(1).sum(dim=1)

    network = ClassifierGuided(Analytic(best_prediction), Tilt(), abars, kind, doubled=False)
    scheduler = DDIMScheduler.from_config(
        backbones[kind].noise_schedule.config, clip_sample=False, set_alpha_to_one=True
    )
    scheduler.set_timesteps(200)
    start = torch.randn((500, 1, 1, 1), generator=torch.Generator().manual_seed(0))
    x = start
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t, torch.zeros(500, 1, 1), return_dict=False)[0], t, x).prev_sample
    shift = (x - start).mean().item()
    assert shift == pytest.approx(a * (1 - abars[-1].sqrt().item()), rel=0.05)  # the start itself was not tilted
    assert x.std().item() == pytest.approx(start.std().item(), rel=0.02)


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-4, 0.9999), st.floats(-5, 5), st.floats(-5, 5))
def test_noise_and_velocity_are_shifted_to_the_same_picture(abar, x, gradient):
    abar, x, gradient = (torch.tensor([value], dtype=torch.float64) for value in (abar, x, gradient))
    velocity = 0.3 * torch.ones_like(x)
    moved = velocity + prediction_shift(gradient, abar, "v_prediction")
    noise, moved_noise = (abar.sqrt() * v + (1 - abar).sqrt() * x for v in (velocity, moved))
    torch.testing.assert_close(moved_noise, noise + prediction_shift(gradient, abar, "epsilon"), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved_noise - noise, -(1 - abar).sqrt() * gradient, rtol=1e-9, atol=1e-9)


def test_pure_noise_is_left_alone_and_extreme_gradients_stay_finite():
    abar = torch.tensor([0.0, 1e-7, 0.5, 1.0]).view(-1, 1, 1, 1)
    shift = prediction_shift(1e4 * torch.ones((4, 1, 1, 1)), abar, "v_prediction").flatten()
    assert shift.isfinite().all() and shift[0] == 0 and shift[3] == 0 and shift[1] < shift[2] < 0


def test_the_schedule_is_read_exactly_at_timesteps_and_interpolated_between(backbones):
    backbone = backbones["epsilon"]
    table, cpu = backbone.noise_schedule.alphas_cumprod, torch.device("cpu")
    timestep = torch.tensor([0, 1, 500, 999])
    assert torch.equal(abar_at(table, timestep, cpu), table[timestep])
    assert torch.equal(abar_at(table, timestep.float(), cpu), table[timestep])
    assert abar_at(table, 10.25, cpu).item() == pytest.approx(
        0.75 * table[10].item() + 0.25 * table[11].item(), rel=1e-6
    )


def test_half_precision_predictions_stay_half():
    noisy, slope = torch.randn((2, 1, 2, 2)).half(), torch.ones((1, 1, 2, 2))
    network = ClassifierGuided(
        Analytic(lambda x, t, c: 0 * x), Linear(slope), torch.tensor([0.91, 0.75]), "epsilon", 2.0, doubled=False
    )
    prediction = network(noisy, torch.tensor([0, 1]), torch.zeros(2, 1, 1), return_dict=False)[0]
    assert prediction.dtype == torch.float16
    torch.testing.assert_close(prediction[:, 0, 0, 0].float(), torch.tensor([-0.6, -1.0]), rtol=1e-3, atol=0)


# --- both ------------------------------------------------------------------------------------------------------------


@BOTH
def test_classifier_and_negative_network_work_together(kind, backbones):
    backbone = backbones[kind]
    slope, negative = slope_of(backbone), another(backbone.network)
    both = NegativeGuided(guided(backbone, Linear(slope)), negative)
    latents = sampled(backbone, at_guidance(both, GUIDANCE, classifier_scale=0.2))
    close(latents, by_hand(backbone, negative, backbone.network, eta=0.2, slope=slope))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ["negative", "classifier"])
def test_without_an_unconditional_half_guidance_is_refused(kind, batch, backbones):
    backbone = backbones["epsilon"]
    network = (
        NegativeGuided(backbone.network, backbone.network)
        if kind == "negative"
        else guided(backbone, Linear(slope_of(backbone)))
    )
    pipeline = backbone.pipeline(network, DDIMScheduler)
    with pytest.raises(PalateError, match="Sample with guidance above 1"):
        pipeline(list(PROMPTS)[:batch], num_inference_steps=1, guidance_scale=1.0, output_type="latent")


def test_a_doubled_batch_is_told_by_its_latents():
    latents, embeddings = torch.randn((2, 1, 2, 2)), torch.arange(4.0).view(4, 1, 1)
    first, second = halves(latents.repeat(2, 1, 1, 1), torch.tensor([7, 8, 7, 8]), embeddings)
    assert torch.equal(first[0], latents) and torch.equal(second[0], latents)
    assert (first[1].tolist(), second[1].tolist(), first[2].flatten().tolist()) == ([7, 8], [7, 8], [0, 1])
    assert [half[1] for half in halves(latents.repeat(2, 1, 1, 1), 7, embeddings)] == [7, 7]
    with pytest.raises(PalateError, match="no unconditional half"):
        halves(latents, 7, embeddings[:2])


def test_a_guided_network_answers_as_the_one_it_guides(backbones):
    unet = backbones["epsilon"].network
    network = at_guidance(NegativeGuided(unet, unet), 3.0)
    assert (network.config, network.dtype, network.device) == (unet.config, unet.dtype, unet.device)
    assert at_guidance(unet, 3.0, 5.0) is unet
    noisy, embeddings = torch.zeros((2, 4, 8, 8)), torch.zeros((2, 8, 32))
    with torch.no_grad():
        output = network(noisy, 3, encoder_hidden_states=embeddings)
        assert isinstance(output, UNet2DConditionOutput)
        assert torch.equal(network(noisy, 3, embeddings, return_dict=False)[0], output.sample)
