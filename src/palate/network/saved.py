"""A run's saved weights, read back: no entry of a file is dropped in silence, and the trained weights load again bit by
bit."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from palate.errors import PalateError, first_line

ADAPTER = "pytorch_lora_weights.safetensors"
AGAIN = "The run's `palate train` command writes it again; nothing is trained anew."
_FACTOR = re.compile(r"(.+)\.lora_[AB]\.weight")


@dataclass(frozen=True)
class Adapters:
    """The content of a file of adapters: alpha/rank · lora_B · lora_A is added to the weight of each module."""

    path: Path
    layers: dict[str, Tensor]  # "(module).lora_A.weight" [r, in, ...] and "(module).lora_B.weight" [out, r, ...]
    rank: int
    alpha: float

    @property
    def modules(self) -> list[str]:
        """The adapted modules, in the order of the file."""
        return list(dict.fromkeys(name.rsplit(".lora_", 1)[0] for name in self.layers))


def read_adapters(path: Path, denoiser: str) -> Adapters:
    """The adapters of `denoiser` in a file, by peft's names. Earlier versions used other names for the attention's
    adapters ("….to_q.lora.down.weight"), sometimes beside peft's names in one file, of which diffusers reads only a
    part.

    Raises PalateError for a file that cannot be read, or that has an entry which is no factor of an adapter.
    """
    try:
        with safe_open(path, "pt") as file:
            entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = json.loads((file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}"))
        alphas = [float(value) for name, value in told.items() if name.endswith(".lora_alpha")]
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise PalateError(f"{path}: could not be read ({first_line(error)}). {AGAIN}") from error
    layers, strange = {}, []
    for name, tensor in convert_unet_state_dict_to_peft(entries).items():
        if name.startswith(f"{denoiser}.") and _FACTOR.fullmatch(name) and tensor.dim() > 1:
            layers[name.removeprefix(f"{denoiser}.")] = tensor
        else:
            strange.append(name)
    strange += [name for name in layers if _other_factor(name) not in layers]
    if strange or not layers or len(layers) != len(entries):
        why = f"{_some(strange)} of its {len(entries)} entries" if strange else "it has none, or one twice"
        raise PalateError(f"{path}: not all in it are adapters of the {denoiser} ({why}). {AGAIN}")
    ranks = {len(tensor) for name, tensor in layers.items() if name.endswith(".lora_A.weight")}
    if len(ranks) > 1:
        raise PalateError(
            f"{path}: its adapters have several ranks ({', '.join(map(str, sorted(ranks)[:4]))}). {AGAIN}"
        )
    rank = ranks.pop()
    return Adapters(path, layers, rank, alphas[0] if alphas else float(rank))


def lora_metadata(rank: int, alpha: float, modules: Sequence[str]) -> dict[str, Any]:
    """What diffusers reads of a file of adapters to scale them. It has the two empty patterns, though peft fills them
    in: diffusers 0.37 raises KeyError where they are missing."""
    return {
        "r": rank, "lora_alpha": alpha, "target_modules": list(modules), "rank_pattern": {}, "alpha_pattern": {}
    }  # fmt: skip


def require_alpha(found: Adapters, alpha: float | None) -> None:
    """Raises PalateError for a file that does not give the alpha of its run (None is the rank)."""
    if found.alpha != (alpha or found.rank):
        raise PalateError(
            f"{found.path}: does not say that lora.alpha is {alpha or found.rank:g}, so its adapters would be scaled "
            f"wrongly. {AGAIN}"
        )


def require_modules(network: nn.Module, found: Adapters) -> None:
    """Raises PalateError for adapters of modules that the network lacks."""
    there = {name for name, _ in network.named_modules()}
    if lost := [module for module in found.modules if module not in there]:
        raise PalateError(
            f"{found.path}: has adapters for modules that the {type(network).__name__} lacks ({_some(lost)} of "
            f"{len(found.modules)}). It was trained on another base model."
        )


def add_adapters(network: ModelMixin, found: Adapters) -> None:
    """Add adapters to a network of diffusers. Raises PalateError when not all of them load unchanged."""
    require_modules(network, found)
    config = lora_metadata(found.rank, found.alpha, found.modules)
    try:
        network.load_lora_adapter(dict(found.layers), prefix=None, metadata=config)
    except (ValueError, RuntimeError) as error:  # shapes
        raise PalateError(f"{found.path}: does not fit the {type(network).__name__} ({first_line(error)}).") from error
    require_loaded(network, found)


def require_loaded(network: nn.Module, found: Adapters) -> None:
    """Raises PalateError unless the adapter that was loaded last is the one of the file: the same modules, factors and
    scale. On the device meta everything but the numbers is compared."""
    name = list(getattr(network, "peft_config", {"none": None}))[-1]
    loaded, scales = {}, {}
    for module, layer in network.named_modules():
        if isinstance(layer, LoraLayer) and name in layer.scaling:
            scales[module] = layer.scaling[name]
            for side in ("lora_A", "lora_B"):
                if name in getattr(layer, side):
                    loaded[f"{module}.{side}.weight"] = getattr(layer, side)[name].weight
    wrong = [key for key, tensor in found.layers.items() if key not in loaded or not _same(loaded[key], tensor)]
    wrong += [key for key in loaded if key not in found.layers]
    wrong += [module for module, scale in scales.items() if scale != found.alpha / found.rank]
    if wrong:
        raise PalateError(
            f"{found.path}: not all of its adapters load as they are ({_some(wrong)} of {len(found.layers)})."
        )


@contextmanager
def read_back(folder: Path) -> Iterator[None]:
    """Around the checks of the files written for `folder`: turn an error into one line that says that they are not
    kept."""
    try:
        yield
    except (PalateError, SafetensorError, ValueError, RuntimeError) as error:
        raise PalateError(
            f"{folder}: what was saved does not load as what was trained, and is not kept ({first_line(error)}). The "
            "weights are in the "
            "run's checkpoint: run the same `palate train` command again, and report it when it is refused again."
        ) from error


def check_saved_adapters(
    file: Path,
    trained: dict[str, Tensor],
    alpha: float,
    pipeline: type[DiffusionPipeline],
    network: ModelMixin,
    denoiser: str,
) -> None:
    """Read a file of adapters as diffusers does and as palate does, and compare it with the trained weights: `trained`
    by peft's names; `network` is on the device meta and gets the adapters. Raises PalateError when they differ."""
    layers, *alphas, scaling = pipeline.lora_state_dict(file.parent, weight_name=file.name, return_lora_metadata=True)
    _require_same(trained, ((name.removeprefix(f"{denoiser}."), tensor) for name, tensor in layers.items()))
    found = read_adapters(file, denoiser)
    require_alpha(found, alpha)
    _require_same(trained, found.layers.items())
    require_modules(network, found)
    options = {"network_alphas": alphas[0] if alphas else None, "metadata": scaling, "low_cpu_mem_usage": True}
    network.load_lora_adapter(layers, prefix=denoiser, **options)
    require_loaded(network, found)


def check_saved_weights(folder: Path, trained: dict[str, Tensor], kind: type[ModelMixin]) -> None:
    """Read a component's folder that was just written, and compare it with the trained weights bit by bit: in the file,
    and in the network that its configuration makes. Raises PalateError when they differ."""
    _require_same(trained, _weights(folder))
    with torch.device("meta"):
        network = kind.from_config(kind.load_config(folder))
    _require_same(trained, network.state_dict().items())


def _weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    index = next(folder.glob("*.safetensors.index.json"), None)
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index else None
    for path in [folder / name for name in names] if names else sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)


def _require_same(trained: dict[str, Tensor], saved: Iterable[tuple[str, Tensor]]) -> None:
    left, wrong = dict(trained), []
    for name, tensor in saved:
        if name not in left or not _same(left.pop(name), tensor, exact=True):
            wrong.append(name)
    if wrong or left:
        raise PalateError(f"of {len(trained)} weights, wrong or missing: {_some([*wrong, *left])}")


def _same(one: Tensor, other: Tensor, exact: bool = False) -> bool:
    """Bit by bit, NaN included; on the device meta the shape alone. `exact`: in type as well, else `other` is cast."""
    if one.shape != other.shape or (
        exact and "meta" not in (one.device.type, other.device.type) and one.dtype != other.dtype
    ):
        return False
    if "meta" in (one.device.type, other.device.type):
        return True
    first, second = (tensor.detach().cpu().to(one.dtype).contiguous().flatten() for tensor in (one, other))
    return torch.equal(first.view(torch.uint8), second.view(torch.uint8))


def _other_factor(name: str) -> str:
    return name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")


def _some(names: list[str]) -> str:
    """At most two names, and the number of all."""
    return f"{', '.join(name[:80] for name in names[:2])}{', …' if len(names) > 2 else ''}: {len(names)}"
