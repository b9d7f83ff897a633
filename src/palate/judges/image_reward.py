"""ImageReward (arXiv 2304.05977): BLIP reads the prompt while looking at the picture, an MLP scores what it saw.

The published checkpoint keeps the original BLIP's names; here it runs on transformers' BLIP. The reward is standardised
with the published mean and spread, so scores are those of the published package.
"""

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from palate.errors import PalateError
from palate.judges.base import Pair
from palate.judges.weights import (
    DTYPES,
    choose_device,
    choose_dtype,
    content_hash,
    count_layers,
    find_file,
    find_model,
    find_tokenizer,
    fit,
    load_state,
    pictures,
    renamed,
)

_HUB, _TOKENIZER = "THUDM/ImageReward", "google-bert/bert-base-uncased"
_TOKENIZER_FILES = (("vocab.txt",), ("tokenizer.json",))
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072  # of the reward on the training set, as published
_TOKENS = 35  # of a prompt; the rest is cut
_LAYERS = (0, 2, 4, 6, 7)  # of the MLP; the numbers between are drop-out
_TEXT = {"num_attention_heads": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}  # where med_config.json is not there


class ImageRewardJudge:
    """`model` is a folder with ImageReward.pt, med_config.json and BERT's vocab.txt, or a hub name."""

    version = "1"
    batch_size = 8

    def __init__(
        self,
        model: str | None = None,
        tokenizer: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ):
        weights = ("ImageReward*.pt", "ImageReward*.safetensors")
        self.folder = find_model(model or _HUB, ("ImageReward.pt", "med_config.json"))
        self.path = find_file(self.folder, weights, "the weights of imagereward")
        self.tokenizer_folder = find_tokenizer(tokenizer, model, self.folder, _TOKENIZER_FILES, _TOKENIZER)
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {"weights": content_hash(self.path), "dtype": self.dtype}

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import BertTokenizer

        return BertTokenizer.from_pretrained(self.tokenizer_folder)

    @cached_property
    def model(self) -> "_ImageReward":
        state = load_state(self.path)
        config = self.path.parent / "med_config.json"
        text = _TEXT | (json.loads(config.read_text()) if config.is_file() else {})
        model = _ImageReward(*_sizes(state, text, self.path))
        fit(model, blip_names(state), self.path, "imagereward")
        model.eval().requires_grad_(False).to(self.device)
        model.vision.to(DTYPES[self.dtype])
        model.text.to(DTYPES[self.dtype])
        return model  # the MLP stays in fp32

    def vote(self, pairs: list[Pair]) -> np.ndarray:
        """Scores [N, 2], of spread about 1."""
        images = [pair.image_0 for pair in pairs] + [pair.image_1 for pair in pairs]
        return self.score(images, [pair.prompt for pair in pairs] * 2).reshape(2, -1).T

    @torch.no_grad()
    def score(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        """Scores [N] of single pictures."""
        pixels = pictures(images, self.model.vision.config.image_size)
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt"
        ).to(self.device)
        reward = self.model(pixels.to(self.device), tokens.input_ids, tokens.attention_mask)
        scores: np.ndarray = reward.cpu().double().numpy()
        return scores


class _ImageReward(torch.nn.Module):
    """Vision transformer, text transformer that attends to it, and the MLP on the first token."""

    def __init__(self, vision: dict[str, Any], text: dict[str, Any], mlp: list[int]):
        from transformers import BlipTextConfig, BlipVisionConfig
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        super().__init__()
        self.vision = BlipVisionModel(BlipVisionConfig(**vision))
        self.text = BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False)
        self.mlp = torch.nn.ModuleList([torch.nn.Linear(a, b) for a, b in zip(mlp[:-1], mlp[1:], strict=True)])

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Rewards [M] of pictures [M, 3, H, W] for prompts [M, L]."""
        seen = self.vision(pixel_values=pixels.to(self.vision.dtype)).last_hidden_state  # [M, P, D]
        read = self.text(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state  # fmt: skip
        x: torch.Tensor = read[:, 0].float()
        for layer in self.mlp:
            x = layer(x)
        return (x[:, 0] - _MEAN) / _STD


def _sizes(
    state: dict[str, torch.Tensor], given: dict[str, Any], path: Path
) -> tuple[dict[str, Any], dict[str, Any], list[int]]:
    """Configurations of both transformers and widths of the MLP, read off the tensors; heads from med_config.json."""
    vision, text = "blip.visual_encoder.", "blip.text_encoder."
    needed = (
        f"{vision}patch_embed.proj.weight",
        f"{vision}pos_embed",
        f"{vision}blocks.0.mlp.fc1.weight",
        f"{text}embeddings.word_embeddings.weight",
        f"{text}embeddings.position_embeddings.weight",
        f"{text}encoder.layer.0.intermediate.dense.weight",
        *(f"mlp.layers.{i}.weight" for i in _LAYERS),
    )
    missing = [name for name in needed if name not in state]
    if missing:
        raise PalateError(f"{path}: not the weights of imagereward: {missing[0]} is missing. Give ImageReward.pt.")
    width, _, patch, _ = state[needed[0]].shape
    words, text_width = state[needed[3]].shape
    mlp = [state[f"mlp.layers.{i}.weight"] for i in _LAYERS]
    return (
        {
            "hidden_size": width,
            "intermediate_size": state[needed[2]].shape[0],
            "num_attention_heads": max(1, width // 64),
            "num_hidden_layers": count_layers(state, rf"{vision}blocks\.(\d+)\."),
            "patch_size": patch,
            "image_size": patch * round((state[needed[1]].shape[1] - 1) ** 0.5),
            "layer_norm_eps": 1e-6,  # timm's, where BLIP's vision transformer comes from
        },
        {
            "vocab_size": words,
            "hidden_size": text_width,
            "encoder_hidden_size": width,
            "intermediate_size": state[needed[5]].shape[0],
            "num_hidden_layers": count_layers(state, rf"{text}encoder\.layer\.(\d+)\."),
            "max_position_embeddings": state[needed[4]].shape[0],
            "num_attention_heads": given["num_attention_heads"],
            "layer_norm_eps": given["layer_norm_eps"],
            "hidden_act": given["hidden_act"],
            "is_decoder": True,
        },
        [mlp[0].shape[1], *(weight.shape[0] for weight in mlp)],
    )


_RENAMED = [
    (r"^blip\.text_encoder\.", "text."),
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.", "vision.encoder.layers."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.norm1\.", ".layer_norm1."),
    (r"\.norm2\.", ".layer_norm2."),
]
_UNUSED = ("blip.vision_proj.", "blip.text_proj.")  # of BLIP's pretraining


def blip_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of ImageReward.pt under the names of `_ImageReward`."""
    out = {}
    for name, tensor in state.items():
        if name.startswith(_UNUSED) or name.endswith("position_ids"):
            continue
        if layer := re.match(r"^mlp\.layers\.(\d+)\.(\w+)$", name):
            name = f"mlp.{_LAYERS.index(int(layer[1]))}.{layer[2]}"
        out[renamed(name, _RENAMED)] = tensor
    return out
