"""The type in which weights that never change are held."""

import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CAST = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)  # whose weights autocast casts at each use


def hold_frozen(network: torch.nn.Module, weight_dtype: str) -> None:
    """Hold the frozen weights of linear and convolution layers in `weight_dtype`; norms and all that is trained stay fp32.

    Under an autocast of the same type this changes no result: it rounds once what autocast rounds at every use.
    """
    for module in network.modules():
        if isinstance(module, CAST):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(DTYPES[weight_dtype])
