"""Guidance: of one prediction, and while sampling by networks that the stock pipeline takes in place of its UNet.

The pipeline with guidance s above 1 calls its UNet on one batch [unconditional; conditional] of the same latents, and
goes on with u + s·(c - u) of what comes back. Everything here changes what comes back, and leaves the pipeline and the
sampler alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from palate.backbones.components import Config
from palate.backbones.conditioning import Conditioning, concatenate, expand
from palate.errors import PalateError
from palate.objectives.logit import full_precision


def guided_prediction(
    predict: Callable[[Tensor, Tensor, Conditioning], Tensor], noisy: Tensor, timestep: Tensor,
    conditioning: Conditioning, unconditional: Conditioning, guidance: float,
) -> Tensor:  # fmt: skip
    """unconditional + guidance·(conditional - unconditional), [B, C, h, w]. One forward, over B at guidance 1.

    predict gives [B, C, h, w] in fp32 or above; noisy [B, C, h, w], timestep [B], conditioning of the prompts, B rows,
    and of the empty one, one row.
    """
    if guidance == 1:
        return predict(noisy, timestep, conditioning)
    both = concatenate([expand(unconditional, len(noisy)), conditioning])
    without, given = predict(torch.cat([noisy] * 2), torch.cat([timestep] * 2), both).chunk(2)
    return without + guidance * (given - without)


class Guided(nn.Module):
    """What a pipeline asks of its UNet besides predictions, answered by the network that is guided."""

    unet: ModelMixin  # or another guided network, which answers like one

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    @property
    def config(self) -> Config:
        config: Config = self.unet.config
        return config

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = self.unet.device
        return device

    @property
    def add_embedding(self) -> nn.Module:  # SDXL's pipeline looks up its width
        embedding: nn.Module = self.unet.add_embedding
        return embedding

    def predict(self, noisy: Tensor, timestep: Tensor | float, embeddings: Tensor, **options: Any) -> Tensor:
        """The guided prediction [B, C, h, w]; `options` go to the networks as they are."""
        raise NotImplementedError

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        return_dict: bool = True,
        **options: Any,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """`predict`, as a UNet returns it."""
        prediction = self.predict(noisy, timestep, encoder_hidden_states, **options)
        return UNet2DConditionOutput(sample=prediction) if return_dict else (prediction,)


# --- Diffusion-NPO ---------------------------------------------------------------------------------------------------


class NegativeGuided(Guided):
    """Diffusion-NPO (arXiv 2505.11245): prediction = negative(empty) + s·(unet(c) - negative(empty)).

    The unconditional half goes through `negative`, a network that prefers what people do not, the conditional half
    through `unet`. As in the published code, except that both run in the precision they are given (published: fp16).

    Raises PalateError when the batch has no unconditional half. It does not fall back to `unet` alone: pictures that
    are said to be made with a negative network would then be made without it.
    """

    def __init__(self, unet: nn.Module, negative: nn.Module):
        super().__init__(unet)
        self.negative = negative

    def predict(self, noisy: Tensor, timestep: Tensor | float, embeddings: Tensor, **options: Any) -> Tensor:
        (noisy_u, time_u, empty), (noisy_c, time_c, prompts) = halves(noisy, timestep, embeddings)
        told_u, told_c = (options | told for told in _halves_told(options))
        unconditional = self.negative(noisy_u, time_u, empty, return_dict=False, **told_u)[0]
        conditional = self.unet(noisy_c, time_c, prompts, return_dict=False, **told_c)[0]
        return torch.cat([unconditional, conditional])


def negative_weights(base: nn.Module, positive: nn.Module, npo: nn.Module, mix: float = 0.0) -> dict[str, Tensor]:
    """theta_neg = mix·theta_base + (1 - mix)·theta_pos + delta_npo, with delta_npo = theta_npo - theta_base, by plain
    names.

    Diffusion-NPO's code, `merge_weight` there; published default 0. Each network may have all its weights trained, or
    adapters, which are added into plain weights: the result loads into a network as `base` is. Computed in fp32,
    returned in the type and on the device of `base`; the published code mixes in fp16. With mix 1 and npo = base it is
    exactly theta_base.

    Raises PalateError for a mix outside [0, 1], and when the networks are not of one architecture.
    """
    if not 0 <= mix <= 1:
        raise PalateError(
            f"negative_mix: {mix!r} is not between 0 (around the positive model) and 1 (around the base)."
        )
    thetas = [plain_weights(network) for network in (base, positive, npo)]
    if any(_shapes(theta) != _shapes(thetas[0]) for theta in thetas):
        raise PalateError(
            "the negative, the positive and the base network differ in their layers, so their weights cannot be mixed. "
            "Choose runs of one base model."
        )

    def mixed(theta_base: Tensor, theta_pos: Tensor, theta_npo: Tensor) -> Tensor:
        b, p, n = (full_precision(theta.to(theta_base.device)) for theta in (theta_base, theta_pos, theta_npo))
        return (mix * b + (1 - mix) * p + (n - b)).to(theta_base.dtype)

    return {name: mixed(*(theta[name] for theta in thetas)) for name in thetas[0]}


@torch.no_grad()
def plain_weights(unet: nn.Module) -> dict[str, Tensor]:
    """The weights of a network under the names they have without adapters, active LoRA adapters added in. Changes
    nothing in it."""
    weights = {name.replace(".base_layer.", "."): w for name, w in unet.state_dict().items() if ".lora_" not in name}
    for name, layer in unet.named_modules():
        if isinstance(layer, LoraLayer) and not layer.merged and not layer.disable_adapters:
            for adapter in set(layer.active_adapters) & set(layer.lora_A):
                weight = weights[f"{name}.weight"]
                # every kind of adapted layer has it
                delta: Tensor = layer.get_delta_weight(adapter)  # type: ignore[attr-defined]
                weights[f"{name}.weight"] = weight + delta.to(weight.dtype)
    return weights


# --- PC-Diffusion ----------------------------------------------------------------------------------------------------


class ClassifierGuided(Guided):
    """PC-Diffusion (arXiv 2511.07806), derived: eps = eps_base - scale·sqrt(1 - abar_t)·grad f, on the conditional half
    alone.

    The score of p(x_t | c)·exp(scale·f(x_t, t, c)), a model tilted toward what is preferred, is the base's plus
    scale·grad f, and eps = -sqrt(1 - abar_t)·score. f speaks of pictures of this prompt, so that it tilts p(x_t | c);
    p(x_t), from which guidance s steers away, stays as it is. The picture therefore feels s·scale·grad f, as it feels
    the prompt s-fold.

    `doubled` says whether the batch is [unconditional; conditional], which the pipeline makes of guidance above 1;
    without it all of the batch is conditional. At scale 0 the base's prediction comes back bit by bit and f is not
    computed. `alphas_cumprod` [T], fp32, and `prediction_type` are the training schedule's.
    """

    def __init__(
        self,
        unet: nn.Module,
        classifier: nn.Module,
        alphas_cumprod: Tensor,
        prediction_type: str = "epsilon",
        scale: float = 1.0,
        doubled: bool = True,
    ):
        super().__init__(unet)
        self.classifier = classifier
        self.alphas_cumprod, self.prediction_type = alphas_cumprod, prediction_type
        self.scale, self.doubled = scale, doubled

    def predict(self, noisy: Tensor, timestep: Tensor | float, embeddings: Tensor, **options: Any) -> Tensor:
        prediction: Tensor = self.unet(noisy, timestep, embeddings, return_dict=False, **options)[0]
        if self.scale == 0:
            return prediction
        conditional = halves(noisy, timestep, embeddings)[1] if self.doubled else (noisy, timestep, embeddings)
        gradient = preference_gradient(self.classifier, *conditional)
        abar = abar_at(self.alphas_cumprod, conditional[1], gradient.device).view(-1, 1, 1, 1)
        shift = self.scale * prediction_shift(gradient, abar, self.prediction_type)
        start = len(prediction) - len(gradient)  # 0, or where the conditional half begins
        guided = (full_precision(prediction[start:]) + shift).to(prediction.dtype)
        return torch.cat([prediction[:start], guided])


def preference_gradient(classifier: nn.Module, noisy: Tensor, timestep: Tensor | float, embeddings: Tensor) -> Tensor:
    """grad f with respect to x_t [B, C, h, w], fp32, also where gradients are switched off around the call."""
    with torch.enable_grad():
        x_t = full_precision(noisy.detach()).requires_grad_()
        preference = classifier(x_t, timestep, embeddings)  # [B]; no image sees another, so that the sum separates
        return torch.autograd.grad(preference.sum(), x_t)[0]


def prediction_shift(gradient: Tensor, abar: Tensor, prediction_type: str) -> Tensor:
    """What scale 1 adds to a prediction [B, C, h, w]: -sqrt(1 - abar)·grad f to the noise, and its counterpart to the
    velocity.

    From x_t = sqrt(abar)·x_0 + sqrt(1 - abar)·eps and v = sqrt(abar)·eps - sqrt(1 - abar)·x_0 follows, at a given x_t,
    v = (eps - sqrt(1 - abar)·x_t)/sqrt(abar), hence dv = deps/sqrt(abar). Where abar is 0 (the first step of a schedule
    with zero terminal SNR) x_t is noise alone, f can know nothing, and the velocity is left as it is.
    """
    noise_shift = -(1 - abar).sqrt() * gradient
    if prediction_type == "epsilon":
        return noise_shift
    return torch.where(abar > 0, noise_shift / abar.where(abar > 0, 1).sqrt(), 0)


def abar_at(alphas_cumprod: Tensor, timestep: Tensor | float, device: torch.device) -> Tensor:
    """abar at timestep [B], or [1] where one is for all, fp32. Between two timesteps (some samplers stop there) it is
    interpolated."""
    table = alphas_cumprod.to(device, torch.float32)
    timestep = torch.as_tensor(timestep, device=device).reshape(-1)
    low = timestep.floor().long() if timestep.is_floating_point() else timestep.long()
    high = (low + 1).clamp(max=len(table) - 1)
    return torch.lerp(table[low], table[high], (timestep - low).float())


# --- both ------------------------------------------------------------------------------------------------------------


def at_guidance(unet: nn.Module, guidance: float, classifier_scale: float = 1.0) -> nn.Module:
    """The network as a pipeline with this guidance has to call it: told whether the batch is doubled, and the
    classifier's scale.

    Networks are shared, not copied; a plain UNet comes back as it is.
    """
    if isinstance(unet, NegativeGuided):  # its unet sees the conditional half alone
        return NegativeGuided(at_guidance(unet.unet, 1.0, classifier_scale), unet.negative)
    if isinstance(unet, ClassifierGuided):
        return ClassifierGuided(
            unet.unet,
            unet.classifier,
            unet.alphas_cumprod,
            unet.prediction_type,
            classifier_scale,
            doubled=guidance > 1,
        )
    return unet


def denoisers(network: nn.Module) -> list[nn.Module]:
    """The diffusers networks that predict inside a guided one, or the network itself."""
    if not isinstance(network, Guided):
        return [network]
    beside = [network.negative] if isinstance(network, NegativeGuided) else []
    return denoisers(network.unet) + beside


Half = tuple[Tensor, Tensor | float, Tensor]  # latents, timestep, embeddings


def halves(noisy: Tensor, timestep: Tensor | float, embeddings: Tensor) -> tuple[Half, Half]:
    """The unconditional and the conditional half (latents, timestep, embeddings) of a pipeline's doubled batch.

    Raises PalateError when the batch is not doubled: both halves start from the same latents.
    """
    if len(noisy) % 2 or not torch.equal(*noisy.chunk(2)):
        raise PalateError(
            "this batch has no unconditional half, which guidance by a second network or a classifier starts from. "
            "Sample with guidance above 1."
        )
    (first, second), (without, given) = noisy.chunk(2), embeddings.chunk(2)
    if not isinstance(timestep, Tensor) or timestep.numel() == 1:  # one for all
        return (first, timestep, without), (second, timestep, given)
    time_0, time_1 = timestep.chunk(2)
    return (first, time_0, without), (second, time_1, given)


def _halves_told(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What SDXL's pipeline tells its UNet besides, for the unconditional and for the conditional half; nothing
    elsewhere."""
    if options.get("added_cond_kwargs") is None:
        return {}, {}
    pairs = {name: tensor.chunk(2) for name, tensor in options["added_cond_kwargs"].items()}
    without, given = ({"added_cond_kwargs": {name: pair[k] for name, pair in pairs.items()}} for k in (0, 1))
    return without, given


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}
