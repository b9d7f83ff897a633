"""The network in training: adapters or all weights, and the folder that diffusers loads afterwards."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict

from palate.backbones import StableDiffusion
from palate.backbones.classifier import PreferenceClassifier
from palate.backbones.guidance import plain_weights
from palate.errors import PalateError
from palate.files import atomic_path
from palate.training.config import TrainConfig
from palate.training.precision import hold_frozen
from palate.training.sharding import like


@dataclass
class Policy:
    """The network that is trained, with the parameters that training changes, in a fixed order."""

    network: torch.nn.Module  # the denoiser, or a classifier beside it
    names: list[str]
    is_lora: bool = False
    is_classifier: bool = False

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        named = dict(self.network.named_parameters())
        return [named[name] for name in self.names]

    def state(self) -> dict[str, torch.Tensor]:
        return dict(zip(self.names, self.parameters, strict=True))

    def load_state(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.state().items():
                parameter.copy_(like(weights[name], parameter))


def starting_unet(backbone: StableDiffusion, config: TrainConfig) -> torch.nn.Module:
    """The denoiser that training starts from, and its reference: the base model's, or that of an earlier run. Raises
    PalateError when that run has no model, or started from another base model."""
    if config.start_from is None:
        return backbone.unet
    base, trained = backbone.unet, StableDiffusion(backbone.folder, backbone.device).unet
    weights = plain_weights(load_trained_unet(trained, Path(config.start_from) / "model"))
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in base.state_dict().items()}:
        raise PalateError(
            f"start_from: {config.start_from} has a network of another shape than {backbone.folder}; it started from another model."
        )
    base.load_state_dict(weights)
    return base


def make_policy(unet: torch.nn.Module, config: TrainConfig) -> Policy:
    """Add adapters (all else frozen), or open every weight. Raises PalateError when no module matches the adapter's targets."""
    unet.train()  # Stable Diffusion's UNets have no drop-out: this only allows gradient checkpointing
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if config.lora:
        unet.requires_grad_(False)
        options = config.lora
        torch.manual_seed(config.seed)  # the adapters' first factor is random
        try:
            unet.add_adapter(
                peft.LoraConfig(
                    r=options.rank,
                    lora_alpha=options.alpha or options.rank,
                    target_modules=list(options.target_modules),
                )
            )
        except ValueError as error:
            raise PalateError(
                f"lora.target_modules: {', '.join(options.target_modules)} match no module of the UNet."
            ) from error
        hold_frozen(unet, config.weight_dtype)
    else:
        unet.requires_grad_(True)
    names = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    return Policy(unet, names, is_lora=bool(config.lora))


def make_classifier(backbone: StableDiffusion, config: TrainConfig) -> Policy:
    """A new preference classifier for this backbone's latents and prompts (PC-Diffusion); the denoiser is not needed."""
    torch.manual_seed(config.seed)
    classifier = PreferenceClassifier(backbone.latent_channels, backbone.unet.config.cross_attention_dim)
    classifier.to(backbone.device).train()
    return Policy(classifier, [name for name, _ in classifier.named_parameters()], is_classifier=True)


def save_model(policy: Policy, folder: Path, config: TrainConfig) -> None:
    """Write what was trained for diffusers. An adapter on top of an earlier run (start_from) is merged into the weights,
    because the base model alone would not fit it. A diffusers LoRA (`pipeline.load_lora_weights(folder)`) or a component folder (`from_pretrained(folder, subfolder="unet")`)."""
    with atomic_path(folder) as temporary:
        if policy.is_classifier:
            policy.network.save_pretrained(temporary / "classifier", safe_serialization=True)
        elif policy.is_lora and config.start_from is not None:
            merged = type(policy.network).from_config(policy.network.config)
            merged.load_state_dict(plain_weights(policy.network))
            merged.save_pretrained(temporary / "unet", safe_serialization=True)
        elif policy.is_lora:
            layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(policy.network))
            StableDiffusionPipeline.save_lora_weights(temporary, unet_lora_layers=layers, safe_serialization=True)
        else:
            policy.network.save_pretrained(temporary / "unet", safe_serialization=True)
        if (folder / "README.md").is_file():  # a model card, which somebody may have edited
            shutil.copy2(folder / "README.md", temporary / "README.md")


def load_trained_unet(unet: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """The UNet that a run's model folder describes, starting from the base model's `unet`."""
    lora, full = folder / "pytorch_lora_weights.safetensors", folder / "unet"
    if full.is_dir():
        return type(unet).from_pretrained(full)
    if lora.is_file():
        layers, alphas = StableDiffusionPipeline.lora_state_dict(folder)
        StableDiffusionPipeline.load_lora_into_unet(layers, network_alphas=alphas, unet=unet)
        return unet
    raise PalateError(
        f"{folder}: neither pytorch_lora_weights.safetensors nor unet/ is there. Has the run finished? The same `palate train` command goes on."
    )
