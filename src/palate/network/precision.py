"""Types of arithmetic and of the weights that never change."""

import torch
from accelerate.utils import convert_outputs_to_fp32

from palate.backbones import Backbone
from palate.errors import PalateError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = ("no", "bf16", "fp16")  # of mixed_precision; no is fp32
CAST = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)  # whose weights autocast casts at each use


def check_precision(mixed_precision: str, device: torch.device, backbone: Backbone) -> None:
    """Refuse what a device does not have, or a family of models does not bear (PalateError)."""
    if mixed_precision == "fp16" and backbone.overflows_in_fp16:
        raise PalateError(f"mixed_precision: {backbone.family} overflows in fp16. Use bf16 or no.")
    if mixed_precision == "fp16" and device.type == "cpu":
        # accelerate would compute in fp32 without a word
        raise PalateError("mixed_precision: fp16 needs a GPU, and there is none here. Use bf16 or no.")


def hold_frozen(network: torch.nn.Module, weight_dtype: str) -> None:
    """Hold the frozen weights of linear and convolution layers in `weight_dtype`; norms and all that is trained stay
    fp32.

    Under an autocast of the same type this changes no result: it rounds once what autocast rounds at every use.
    """
    for module in network.modules():
        if isinstance(module, CAST):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(DTYPES[weight_dtype])


def compute_in(network: torch.nn.Module, mixed_precision: str, device: torch.device | str) -> None:
    """Let a network that is not trained be called by code in fp32 on this device: held and computed in this precision,
    fp32 comes out."""
    if mixed_precision == "no":
        return
    network.requires_grad_(False)
    hold_frozen(network, mixed_precision)
    autocast = torch.autocast(torch.device(device).type, DTYPES[mixed_precision])
    network.forward = convert_outputs_to_fp32(autocast(network.forward))
