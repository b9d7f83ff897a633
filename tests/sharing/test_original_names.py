"""Original names at the true sizes: diffusers' converters lead back, for the UNets, the VAE and the adapters of each family."""

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_open_clip_checkpoint
from diffusers.utils import convert_state_dict_to_kohya
from tiny import refusal
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from palate.sharing.adapters import _with_original_name
from palate.sharing.original import UNET, original_open_clip, original_unet, original_vae, unet_module

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}  # the defaults of diffusers are the rest of it
SDXL = {
    "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


def weightless(config: dict) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


@pytest.mark.parametrize(
    ("config", "count", "parameters", "some"),
    [
        (SD15, 686, 859_520_964, ("output_blocks.11.0.skip_connection.weight", "output_blocks.2.1.conv.weight", "input_blocks.9.0.op.weight",
                                  "middle_block.1.transformer_blocks.0.attn2.to_k.weight")),
        (SDXL, 1680, 2_567_463_684, ("input_blocks.8.1.transformer_blocks.9.attn1.to_q.weight", "label_emb.0.2.bias",
                                     "output_blocks.2.2.conv.weight", "time_embed.0.weight", "out.2.bias")),
    ],
    ids=["sd15", "sdxl"],
)  # fmt: skip
def test_every_weight_of_the_true_unets_has_the_name_that_diffusers_reads(config, count, parameters, some):
    network = weightless(config)
    weights = network.state_dict()
    assert len(weights) == count and sum(tensor.numel() for tensor in weights.values()) == parameters
    named = {}
    for name, tensor in weights.items():
        module, kind = name.rsplit(".", 1)
        named[f"{UNET}{unet_module(module, network.config)}.{kind}"] = tensor
    assert len(named) == count and {UNET + name for name in some} <= named.keys()
    back = convert_ldm_unet_checkpoint(named, network.config)
    assert {name: tensor.shape for name, tensor in back.items()} == {name: w.shape for name, w in weights.items()}


@pytest.mark.parametrize(
    "targets", [("to_q", "to_out.0"), ("conv1", "proj_in", "net.2", "conv_shortcut", "time_emb_proj")]
)
def test_adapters_of_sdxl_come_back_from_kohyas_names(targets):
    network = weightless(SDXL)
    modules = [name for name, _ in network.named_modules() if name.endswith(targets)]
    layers = {f"unet.{module}.lora_{x}.weight": torch.zeros(1) for module in modules for x in "AB"}
    named = convert_state_dict_to_kohya(
        {_with_original_name(name, network.config): tensor for name, tensor in layers.items()}
    )
    assert len(named) == 3 * len(modules) and not any("_blocks_0_attentions" in name for name in named)
    back, alphas = StableDiffusionXLPipeline.lora_state_dict(named, unet_config=network.config)
    plain = {
        name.replace(".processor", "").replace("_lora.", ".lora.").replace("to_out.lora", "to_out.0.lora")
        for name in back
    }
    assert plain == {name.replace("lora_A", "lora.down").replace("lora_B", "lora.up") for name in layers}
    assert len(alphas) == len(modules)


def test_the_second_text_encoder_comes_back_from_open_clips_names():
    config = CLIPTextConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, projection_dim=8,
                            vocab_size=12, max_position_embeddings=5)  # fmt: skip
    torch.manual_seed(0)
    encoder = CLIPTextModelWithProjection(config)
    weights = encoder.state_dict()
    named = original_open_clip(weights, "conditioner.embedders.1.")
    assert {
        "conditioner.embedders.1.model.text_projection",
        "conditioner.embedders.1.model.positional_embedding",
    } <= named.keys()
    back = convert_open_clip_checkpoint(encoder, named, prefix="conditioner.embedders.1.model.")
    assert back.keys() == weights.keys() and all(torch.equal(tensor, back[name]) for name, tensor in weights.items())
    assert "logit_scale has no name" in refusal(
        lambda: original_open_clip(weights | {"logit_scale": torch.zeros(1)}, "")
    )


def test_networks_of_another_build_are_refused():
    small = {"block_out_channels": (8, 8), "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 8, "layers_per_block": 1,
             "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}  # fmt: skip
    plain = UNet2DConditionModel(**small)
    assert len(original_unet(plain.state_dict(), plain.config)) == len(plain.state_dict())
    odd = UNet2DConditionModel(**small | {"time_cond_proj_dim": 4})
    assert "time_embedding.cond_proj has no name" in refusal(lambda: original_unet(odd.state_dict(), odd.config))
    uneven = UNet2DConditionModel(**small | {"layers_per_block": (1, 2)})
    assert "has no name" in refusal(lambda: original_unet(uneven.state_dict(), uneven.config))
    vae = AutoencoderKL(block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                        norm_num_groups=4)  # fmt: skip
    weights = vae.state_dict()
    assert "first_stage_model.encoder.mid.attn_1.q.weight" in original_vae(weights, vae.config)
    assert "VAE" in refusal(lambda: original_vae(weights | {"decoder.extra.weight": torch.zeros(1)}, vae.config))
