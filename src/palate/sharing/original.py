"""Stable Diffusion's own names of its weights (those of the CompVis and Stability repositories), from diffusers' names.

diffusers has the way from there to here, `palate export` needs the way back. Every result is sent through diffusers'
converter, which must give back what went in.
"""

import re
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor

from palate.errors import PalateError

UNET, VAE = "model.diffusion_model.", "first_stage_model."
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
              "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
_OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def unet_module(module: str, config: dict[str, Any]) -> str:
    """The original name of a module of the UNet, for example "input_blocks.4.1.proj_in". Raises PalateError where it
    has none."""
    if module in _UNET_ENDS:
        return _UNET_ENDS[module]
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", module):
        kind, index, inner = found.groups()
        return f"middle_block.{2 * int(index) + (kind == 'attentions')}.{_RESNET.get(inner, inner)}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", module)
    per_block = config["layers_per_block"]
    if found and isinstance(per_block, int) and (found[3] != "resnets" or found[5] in _RESNET):
        side, block, kind, layer, inner = found.groups()
        per_block += 1  # the place of a down- or upsampler
        first = int(block) * per_block
        if kind == "downsamplers":
            return f"input_blocks.{first + per_block}.0.op"
        if kind == "upsamplers":
            place = 1 + ("Attn" in config["up_block_types"][int(block)])  # after the attention, where there is one
            return f"output_blocks.{first + per_block - 1}.{place}.conv"
        blocks = f"input_blocks.{1 + first + int(layer)}" if side == "down" else f"output_blocks.{first + int(layer)}"
        return f"{blocks}.0.{_RESNET[inner]}" if kind == "resnets" else f"{blocks}.1.{inner}"
    raise PalateError(
        f"the UNet's module {module} has no name in the original layout. Export it as diffusers or fused."
    )


def original_unet(weights: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """All weights of a UNet by their original names. Raises PalateError when diffusers would not read them back the
    same."""
    out = {
        f"{UNET}{unet_module(module, config)}.{kind}": weights[f"{module}.{kind}"]
        for module, kind in map(_split, weights)
    }
    _require_same(weights, convert_ldm_unet_checkpoint(dict(out), config), "UNet")
    return out


def original_vae(weights: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """All weights of a VAE by their original names. Raises PalateError when diffusers would not read them back the
    same."""
    out = {}
    for module, kind in map(_split, weights):
        name, tensor = _vae_module(module, len(config["up_block_types"])), weights[f"{module}.{kind}"]
        if re.search(r"attn_1\.(q|k|v|proj_out)$", name) and kind == "weight":
            tensor = tensor[:, :, None, None]  # a convolution over one pixel there, linear here
        out[f"{VAE}{name}.{kind}"] = tensor
    _require_same(weights, convert_ldm_vae_checkpoint(dict(out), config), "VAE")
    return out


def original_clip(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """CLIP's text encoder: the names of transformers, below a prefix. "text_model." was in all of them, and no longer
    is."""
    return {f"{prefix}transformer.text_model.{name.removeprefix('text_model.')}": w for name, w in weights.items()}


def original_open_clip(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A text encoder by open_clip's names: query, key and value in one matrix, the projection transposed."""
    plain = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    out = {}
    for name, tensor in plain.items():
        if name == "text_projection.weight":
            out[f"{prefix}model.text_projection"] = tensor.T
        elif name in _OPEN_CLIP_ENDS:
            out[f"{prefix}model.{_OPEN_CLIP_ENDS[name]}"] = tensor
        elif found := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            layer, kind = found.groups()
            parts = [plain[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            out[f"{prefix}model.transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif (found := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)) and found[2] in _OPEN_CLIP:
            out[f"{prefix}model.transformer.resblocks.{found[1]}.{_OPEN_CLIP[found[2]]}.{found[3]}"] = tensor
        elif not re.search(r"position_ids$|self_attn\.[kv]_proj\.(weight|bias)$", name):
            raise PalateError(
                f"the text encoder's weight {name} has no name in the original layout. Export it as diffusers or fused."
            )
    return out


def _vae_module(module: str, blocks: int) -> str:
    if found := re.fullmatch(r"(.+)\.mid_block\.attentions\.0\.(.+)", module):
        return f"{found[1]}.mid.attn_1.{_ATTENTION.get(found[2], found[2])}"
    if found := re.fullmatch(r"(.+)\.mid_block\.resnets\.(\d)\.(.+)", module):
        return f"{found[1]}.mid.block_{int(found[2]) + 1}.{found[3]}"
    found = re.fullmatch(r"(.+)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)", module)
    if not found:
        return module.replace("conv_norm_out", "norm_out")
    coder, side, block, kind, layer, inner = found.groups()
    level = int(block) if side == "down" else blocks - 1 - int(block)
    if kind == "resnets":
        return f"{coder}.{side}.{level}.block.{layer}.{inner.replace('conv_shortcut', 'nin_shortcut')}"
    return f"{coder}.{side}.{level}.{kind.removesuffix('rs')}.{inner}"


def _split(name: str) -> tuple[str, str]:
    module, _, kind = name.rpartition(".")
    return module, kind


def _require_same(given: dict[str, Tensor], back: dict[str, Tensor], what: str) -> None:
    if given.keys() != back.keys() or not all(torch.equal(tensor, back[name]) for name, tensor in given.items()):
        raise PalateError(f"this {what} is built otherwise than the original one, and has no names in its layout. "
                          "Export it as diffusers or fused.")  # fmt: skip
