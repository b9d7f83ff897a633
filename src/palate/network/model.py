"""The network in training: adapters or all weights, and the folder that diffusers loads afterwards."""

import gc
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from diffusers import ModelMixin

from palate.backbones import Backbone
from palate.backbones.classifier import PreferenceClassifier
from palate.backbones.components import component_config, require_whole
from palate.backbones.guidance import plain_weights
from palate.errors import PalateError, first_line
from palate.files import atomic_path, refuse_damaged, write_checksums
from palate.network.precision import hold_frozen
from palate.network.saved import (
    ADAPTER,
    add_adapters,
    check_saved_adapters,
    check_saved_weights,
    lora_metadata,
    read_adapters,
    read_back,
    require_alpha,
)
from palate.network.sharding import like
from palate.run.config import TrainConfig
from palate.run.load import load_config


@dataclass
class Policy:
    """The network that is trained, with the parameters that training changes, in a fixed order."""

    network: ModelMixin  # the denoiser, or a classifier beside it
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


def meta_network(backbone: Backbone) -> ModelMixin:
    """The denoiser by its configuration, on the device meta (no weights)."""
    kind = backbone.network_class
    with torch.device("meta"):
        network: ModelMixin = kind.from_config(kind.load_config(backbone.folder, subfolder=backbone.denoiser))
    return network


def check_adapters(backbone: Backbone, config: TrainConfig) -> None:
    """Raises PalateError when one of the adapter's targets matches no module; no weights are loaded."""
    if config.lora:
        network = meta_network(backbone)
        with torch.device("meta"):
            make_policy(network, config)


@contextmanager
def on_cpu(backbone: Backbone) -> Iterator[None]:
    """Inside the block, load weights onto the CPU, so that only their half-precision copies reach the GPU."""
    device, backbone.device = backbone.device, "cpu"
    try:
        yield
    finally:
        backbone.device = device


def let_go_of_encoders(backbone: Backbone) -> None:
    """Free the memory of autoencoder and text encoders once everything is encoded; they load again when needed."""
    if backbone.free_encoders() and torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def starting_network(backbone: Backbone, config: TrainConfig) -> ModelMixin:
    """The denoiser that training and its reference start from: the base model's, or an earlier run's. Raises
    PalateError when that run has no model, or started from another base model."""
    if config.start_from is None:
        return backbone.network
    with on_cpu(backbone):  # two networks and their sums
        base = backbone.network.to("cpu")
        weights = plain_weights(load_trained(type(backbone)(backbone.folder), Path(config.start_from) / "model"))
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in base.state_dict().items()}:
        raise PalateError(
            f"start_from: {config.start_from} has a network of another shape than {backbone.folder}; it started from"
            " another model."
        )
    base.load_state_dict(weights)
    return base.to(backbone.device)


def make_policy(network: ModelMixin, config: TrainConfig) -> Policy:
    """Add adapters (all else frozen), or open every weight. Raises PalateError when one of the adapter's targets
    matches no module."""
    network.train()  # none of the families has drop-out: this only allows gradient checkpointing
    if config.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    if config.lora:
        network.requires_grad_(False)
        options = config.lora
        _check_targets(network, options.target_modules)
        torch.manual_seed(config.seed)  # the adapters' first factor is random
        try:
            network.add_adapter(
                peft.LoraConfig(
                    r=options.rank,
                    lora_alpha=options.alpha or options.rank,  # type: ignore[arg-type]  # PEFT divides it by the rank
                    target_modules=list(options.target_modules),
                )
            )
        except ValueError as error:  # a module of a kind that takes no adapter
            raise PalateError(f"lora.target_modules: {first_line(error)}") from error
        _check_factors(network)
        hold_frozen(network, config.weight_dtype)
    else:
        network.requires_grad_(True)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    return Policy(network, names, is_lora=bool(config.lora))


def _check_targets(network: torch.nn.Module, targets: tuple[str, ...]) -> None:
    """Check that every target is the name of a module, or the end of one, and no grouped convolution: adapters of those
    cannot be merged."""
    names = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    wrong = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name, _ in network.named_modules())]
    if wrong:
        ends = Counter(re.sub(r"^.*?([^.]+(\.\d+)*)$", r"\1", name) for name in names)
        raise PalateError(
            f"lora.target_modules: {', '.join(wrong)} match no module of the {type(network).__name__}. "
            f"It has, for example, {', '.join(name for name, _ in ends.most_common(6))}."
        )
    for name, module in network.named_modules():
        if getattr(module, "groups", 1) > 1 and any(name == t or name.endswith(f".{t}") for t in targets):
            raise PalateError(
                f"lora.target_modules: {name} is a convolution in {module.groups} groups, whose adapters no format "
                "holds. Leave it out."
            )


def _check_factors(network: torch.nn.Module) -> None:
    """Check that every adapter consists of two factors of a weight: those of embeddings, for example, are other
    tensors, which no format here holds."""
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not name.endswith((".lora_A.default.weight", ".lora_B.default.weight")):
            raise PalateError(f"lora.target_modules: {name.split('.lora_')[0]} is no linear layer or convolution.")


def make_classifier(backbone: Backbone, config: TrainConfig) -> Policy:
    """A new preference classifier for this backbone's latents and prompts (PC-Diffusion); the denoiser is not
    needed."""
    torch.manual_seed(config.seed)
    width = component_config(backbone.folder, backbone.denoiser)["cross_attention_dim"]
    classifier = PreferenceClassifier(backbone.latent_channels, width)
    classifier.to(backbone.device).train()
    return Policy(classifier, [name for name, _ in classifier.named_parameters()], is_classifier=True)


def save_model(policy: Policy, folder: Path, config: TrainConfig, backbone: Backbone) -> None:
    """Write the trained weights for diffusers: a LoRA (`pipeline.load_lora_weights(folder)`) or a component folder
    (`from_pretrained(folder, subfolder="unet")`, or "transformer"). An adapter on top of an earlier run (start_from) is
    merged into the weights, because it does not fit the base model alone; so is the adapter of a family whose pipeline
    loads none.

    Raises PalateError, and leaves the earlier files in place, when the written files do not load as the trained
    weights.
    """
    denoiser = backbone.denoiser

    def save_weights(network: ModelMixin, weights: dict[str, torch.Tensor], component: Path) -> None:
        network.save_pretrained(component, safe_serialization=True)
        with read_back(folder):
            check_saved_weights(component, weights, type(network))

    with atomic_path(folder) as temporary:
        if policy.is_classifier:
            save_weights(policy.network, policy.network.state_dict(), temporary / "classifier")
        elif policy.is_lora and is_merged(backbone, config):
            weights = plain_weights(policy.network)
            merged = type(policy.network).from_config(policy.network.config)
            merged.load_state_dict(weights)
            save_weights(merged, weights, temporary / denoiser)
        elif policy.is_lora:
            adapter = policy.network.peft_config["default"]
            layers = {name.replace(".default.weight", ".weight"): tensor for name, tensor in policy.state().items()}
            options = {
                f"{denoiser}_lora_layers": {name: tensor.detach().contiguous() for name, tensor in layers.items()},
                f"{denoiser}_lora_adapter_metadata": _scaling(adapter),
            }
            backbone.pipeline_class.save_lora_weights(temporary, safe_serialization=True, **options)
            with read_back(folder):
                file, pipeline, meta = temporary / ADAPTER, backbone.pipeline_class, meta_network(backbone)
                check_saved_adapters(file, layers, adapter.lora_alpha, pipeline, meta, denoiser)
        else:
            save_weights(policy.network, policy.network.state_dict(), temporary / denoiser)
        write_checksums(temporary)  # safetensors notices no flipped bit
        if (folder / "README.md").is_file():  # a model card, which the user may have edited
            shutil.copy2(folder / "README.md", temporary / "README.md")


def is_merged(backbone: Backbone, config: TrainConfig) -> bool:
    """Whether adapters are saved as part of the weights: the base model alone, or the family's pipeline, takes none."""
    return config.start_from is not None or not hasattr(backbone.pipeline_class, "save_lora_weights")


def _scaling(adapter: peft.LoraConfig) -> dict[str, Any] | None:
    """The header entry from which diffusers reads alpha; without it, diffusers sets alpha to the rank. Where they are
    equal nothing is written: safetensors writes two header entries in any order, so the bytes of the same model would
    differ."""
    if adapter.lora_alpha == adapter.r:
        return None
    return lora_metadata(adapter.r, adapter.lora_alpha, sorted(adapter.target_modules or ()))


def load_trained(backbone: Backbone, folder: Path) -> ModelMixin:
    """The network that a run's model folder describes; an adapter is added to the backbone's own network.

    Raises PalateError when the folder holds neither an adapter nor the weights of this family's network, when one of
    its files is damaged, and when the network has no place for one of its entries.
    """
    refuse_damaged(folder, "The same `palate train` command writes it again; nothing is trained anew.")
    denoiser = backbone.denoiser
    lora, full = folder / ADAPTER, folder / denoiser
    if full.is_dir():
        network, told = backbone.network_class.from_pretrained(
            full, torch_dtype=torch.float32, output_loading_info=True
        )
        require_whole(full, told)
        return network.to(backbone.device)
    if not lora.is_file():
        raise PalateError(
            f"{folder}: neither {lora.name} nor {denoiser}/ is there. Has the run finished? The same `palate train`"
            " command resumes it."
        )
    found, config = read_adapters(lora, denoiser), folder.parent / "config.yaml"
    if config.is_file() and (options := load_config(config).lora):
        require_alpha(found, options.alpha)
    network = backbone.network
    add_adapters(network, found)
    return network
