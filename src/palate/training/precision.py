"""Types of arithmetic and of the weights that never change."""

import torch

from palate.errors import PalateError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CAST = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)  # whose weights autocast casts at each use


def check_precision(mixed_precision: str, device: torch.device) -> None:
    """Refuse what a device does not have (PalateError): accelerate would compute in fp32 without a word."""
    if mixed_precision == "fp16" and device.type == "cpu":
        raise PalateError("mixed_precision: fp16 needs a GPU, and there is none here. Use bf16 or no.")


def hold_frozen(network: torch.nn.Module, weight_dtype: str) -> None:
    """Hold the frozen weights of linear and convolution layers in `weight_dtype`; norms and all that is trained stay fp32.

    Under an autocast of the same type this changes no result: it rounds once what autocast rounds at every use.
    """
    for module in network.modules():
        if isinstance(module, CAST):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(DTYPES[weight_dtype])
