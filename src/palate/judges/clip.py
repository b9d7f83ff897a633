"""CLIP score, PickScore and HPSv2.1: the cosine between a prompt and a picture in the embedding of a CLIP model.

All three are one formula, score = scale * cos(text, image), on different weights, read with transformers alone:
- clip: 100 * cos (arXiv 2104.08718 without its cut at 0, which would hide differences), openai/clip-vit-large-patch14
- pickscore: exp(logit_scale) * cos (arXiv 2305.01569), which is the logit its authors take the softmax of
- hpsv2.1: 100 * cos (arXiv 2306.09341), as its tables print it; its package returns cos itself
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from palate.errors import PalateError, first_line
from palate.judges.base import Pair
from palate.judges.weights import (
    DTYPES,
    TOKENIZER,
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

_CLIP_L, _CLIP_H = "openai/clip-vit-large-patch14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_WEIGHTS = ("config.json", "model*.safetensors", "model.safetensors.index.json")
# kind -> hub address, files to fetch, address of its tokenizer, score's factor (None: the model's own logit scale)
KINDS = {
    "clip": (_CLIP_L, (*_WEIGHTS, *TOKENIZER), _CLIP_L, 100.0),
    "pickscore": ("yuvalkirstain/PickScore_v1", _WEIGHTS, _CLIP_H, None),
    "hpsv2.1": ("xswu/HPSv2", ("HPS_v2.1_compressed.pt",), _CLIP_H, 100.0),
}
CLIP_TOKENIZER = (("vocab.json", "merges.txt"), ("tokenizer.json",))
_BLOCKS = r"transformer\.resblocks\.(\d+)\."  # of open_clip
_HEADS = {1280: 16, 1408: 16, 1664: 16}  # open_clip's ViT-H, g, bigG; 64 channels per head in all others


class ClipJudge:
    """`model` is a local folder or file, or a hub name: the transformers format, or an open_clip checkpoint (.pt)."""

    version = "1"
    batch_size = 16

    def __init__(
        self, kind: str, model: str | None = None, tokenizer: str | None = None, device: str | None = None,
        dtype: str | None = None,
    ):  # fmt: skip
        address, patterns, source, self.factor = KINDS[kind]
        self.kind = kind
        self.path = find_model(model or address, patterns)
        self.tokenizer_folder = find_tokenizer(tokenizer, model, self.path, CLIP_TOKENIZER, source)
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind, "weights": content_hash(self.path), "dtype": self.dtype}

    @cached_property
    def model(self) -> Any:
        return load_clip(self.path, self.kind).to(self.device, DTYPES[self.dtype])

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self.tokenizer_folder)

    @torch.no_grad()
    def embed(self, images: list[Image.Image]) -> np.ndarray:
        """Unit vectors [N, D] of N pictures, fp32."""
        vectors: np.ndarray = image_features(self.model, images).cpu().numpy()
        return vectors

    @torch.no_grad()
    def vote(self, pairs: list[Pair], embeddings: np.ndarray | None = None) -> np.ndarray:
        """Scores [N, 2]. `embeddings` [2N, D], images 0 first, are computed here when absent."""
        if embeddings is None:
            embeddings = self.embed([pair.image_0 for pair in pairs] + [pair.image_1 for pair in pairs])
        text = text_features(self.model, self.tokenizer, [pair.prompt for pair in pairs])  # [N, D]
        image: torch.Tensor = torch.from_numpy(embeddings).to(self.device).unflatten(0, (2, -1))  # [2, N, D]
        return (self._scale() * (text * image).sum(dim=-1)).T.cpu().double().numpy()

    @torch.no_grad()
    def score(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        """Scores [N] of single pictures, the same as in `vote`."""
        text, image = text_features(self.model, self.tokenizer, prompts), image_features(self.model, images)
        return (self._scale() * (text * image).sum(dim=-1)).cpu().double().numpy()

    def _scale(self) -> torch.Tensor | float:
        return self.model.logit_scale.float().exp() if self.factor is None else self.factor


def image_features(model: Any, images: list[Image.Image]) -> torch.Tensor:
    """Unit vectors [N, D], fp32."""
    pixels = pictures(images, model.config.vision_config.image_size).to(model.device, model.dtype)
    return _unit(model.get_image_features(pixel_values=pixels))


def text_features(model: Any, tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    """Unit vectors [N, D], fp32; prompts beyond the model's length (77 tokens) are cut."""
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids = tokens.input_ids.to(model.device)
    if int(ids.max()) >= model.config.text_config.vocab_size:
        raise PalateError(
            f"{tokenizer.name_or_path}: the tokenizer has more words than the model's "
            f"{model.config.text_config.vocab_size}. Use the tokenizer of that model."
        )
    return _unit(model.get_text_features(input_ids=ids, attention_mask=tokens.attention_mask.to(model.device)))


def _unit(features: torch.Tensor) -> torch.Tensor:
    features = getattr(features, "pooler_output", features)  # transformers 5 wraps what 4 returned
    return torch.nn.functional.normalize(features.float(), dim=-1)


def load_clip(path: Path, what: str = "clip") -> Any:
    """A CLIPModel in fp32 from a transformers folder or an open_clip checkpoint. Raises PalateError for anything
    else."""
    file = _open_clip_file(path, what)
    model = _from_transformers(path, what) if file is None else _from_open_clip(load_state(file), file, what)
    return model.eval().requires_grad_(False)


def _open_clip_file(path: Path, what: str) -> Path | None:
    """The open_clip checkpoint, preferably by its published name; None for a transformers folder."""
    published = path / KINDS["hpsv2.1"][1][0]
    if what == "hpsv2.1" and published.is_file():
        return published
    if (path / "config.json").is_file() and not any(path.glob("*.pt")):
        return None
    return find_file(path, ("*.pt", "*.pth", "open_clip*.bin", "open_clip*.safetensors"), f"the weights of {what}")


def _from_transformers(folder: Path, what: str) -> Any:
    from transformers import CLIPModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        if kind != "clip":
            raise PalateError(f"{folder}: a model of type {kind!r}, but {what} is a CLIP model. Give its folder.")
        model, found = CLIPModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, RecursionError) as error:
        raise PalateError(
            f"{folder}: not the weights of {what} ({first_line(error)}). Give the folder of that model."
        ) from error
    wrong = sorted(str(name) for kind in ("missing_keys", "mismatched_keys") for name in found.get(kind, ()))
    if wrong:  # transformers would only warn, and use random weights
        raise PalateError(f"{folder}: not the weights of {what}: {wrong[0]} is missing. Give the folder of that model.")
    return model


def _from_open_clip(state: dict[str, torch.Tensor], path: Path, what: str) -> Any:
    """A CLIPModel from an open_clip state; its sizes are read off the tensors."""
    from transformers import CLIPConfig, CLIPModel

    needed = ("visual.conv1.weight", "visual.proj", "visual.positional_embedding", "token_embedding.weight",
              "positional_embedding", "text_projection", "logit_scale")  # fmt: skip
    missing = [name for name in needed if name not in state]
    if missing:
        raise PalateError(f"{path}: not the weights of {what}: {missing[0]} is missing. Give the folder of that model.")
    (width, _, patch, _), (places, _) = state["visual.conv1.weight"].shape, state["visual.positional_embedding"].shape
    words, text_width = state["token_embedding.weight"].shape
    projection = state["visual.proj"].shape[1]
    vision = {
        "hidden_size": width,
        "num_attention_heads": _HEADS.get(width, max(1, width // 64)),
        "patch_size": patch,
        "image_size": patch * round((places - 1) ** 0.5),
        "num_hidden_layers": count_layers(state, rf"visual\.{_BLOCKS}"),
        "intermediate_size": _inner(state, "visual.transformer", width),
        "hidden_act": "gelu",
    }
    text = {
        "hidden_size": text_width,
        "num_attention_heads": max(1, text_width // 64),
        "vocab_size": words,
        "max_position_embeddings": state["positional_embedding"].shape[0],
        "num_hidden_layers": count_layers(state, _BLOCKS),
        "intermediate_size": _inner(state, "transformer", text_width),
        "hidden_act": "gelu",
        # tells transformers that the highest token id is the end of text, as in open_clip
        "eos_token_id": 2,
    }
    config = CLIPConfig(
        text_config=text | {"projection_dim": projection}, vision_config=vision | {"projection_dim": projection},
        projection_dim=projection,
    )  # fmt: skip
    return fit(CLIPModel(config), open_clip_names(state), path, what)


_RENAMED = [  # open_clip -> transformers: patterns, applied in turn
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
]

# open_clip computes x @ W, transformers has a Linear
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def open_clip_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an open_clip model under the names, and in the pieces, of transformers' CLIPModel."""
    out = {}
    for name, tensor in state.items():
        if name in _PROJECTIONS:
            out[_PROJECTIONS[name]] = tensor.T.contiguous()
        elif name == "attn_mask":
            continue
        elif ".attn.in_proj_" in name:
            layer, kind = renamed(name, _RENAMED).split(".attn.in_proj_")
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                out[f"{layer}.self_attn.{part}_proj.{kind}"] = piece.contiguous()
        else:
            out[renamed(name, _RENAMED)] = tensor
    return out


def _inner(state: dict[str, torch.Tensor], where: str, width: int) -> int:
    weight = state.get(f"{where}.resblocks.0.mlp.c_fc.weight")
    return 4 * width if weight is None else weight.shape[0]
