"""Types of arithmetic and of the weights that never change."""

import torch
from accelerate.utils import convert_outputs_to_fp32

from palate.backbones import Backbone
from palate.errors import PalateError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = ("no", "bf16", "fp16")  # of mixed_precision; no is fp32
CAST = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)  # autocast casts their weights


def use_tf32(wanted: bool) -> None:
    """Let GPUs that have TF32 use it for fp32 matrix products and convolutions, or forbid it."""
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted


def check_precision(mixed_precision: str, device: torch.device, backbone: Backbone) -> None:
    """Raise PalateError for a precision that the device lacks, or in which this family of models overflows."""
    if mixed_precision == "fp16" and backbone.overflows_in_fp16:
        raise PalateError(f"mixed_precision: {backbone.family} overflows in fp16. Use bf16 or no.")
    if mixed_precision == "fp16" and device.type == "cpu":
        # accelerate would compute in fp32 without a word
        raise PalateError("mixed_precision: fp16 needs a GPU, and there is none here. Use bf16 or no.")


def hold_frozen(network: torch.nn.Module, weight_dtype: str) -> None:
    """Hold the frozen weights of linear and convolution layers in `weight_dtype`; norms and all that is trained stay
    fp32.

    Under an autocast of the same type this changes no result: weights are rounded once instead of at every use.
    """
    for module in network.modules():
        if isinstance(module, CAST):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(DTYPES[weight_dtype])


def compute_in(network: torch.nn.Module, mixed_precision: str, device: torch.device | str) -> None:
    """Hold and compute an untrained network in this precision on this device; its outputs are cast to fp32 for the
    caller."""
    if mixed_precision == "no":
        return
    network.requires_grad_(False)
    hold_frozen(network, mixed_precision)
    autocast = torch.autocast(torch.device(device).type, DTYPES[mixed_precision])
    network.forward = convert_outputs_to_fp32(autocast(network.forward))
