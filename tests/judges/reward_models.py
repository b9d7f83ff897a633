"""Small reward models with random weights, in the formats in which the real ones are published, and plain-torch readings
of the two formats that are not transformers' own: open_clip's CLIP and the original BLIP of ImageReward."""

import json
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

PATCH, SIZE, WORDS, LENGTH = 8, 32, 195, 8  # WORDS covers the small world's tokenizer


def save_tokenizer(folder: Path):
    from palate.demos.pretrain import make_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_clip(folder: Path, projection: int = 24, seed: int = 0, scale: float = 4.0) -> Path:
    """A CLIPModel in transformers' format with its tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    tokenizer = save_tokenizer(folder)
    config = CLIPConfig(
        text_config=dict(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                         max_position_embeddings=LENGTH, projection_dim=projection, bos_token_id=tokenizer.bos_token_id,
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id),
        vision_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE,
                           patch_size=PATCH, projection_dim=projection),
        projection_dim=projection,
    )  # fmt: skip
    model = CLIPModel(config)
    with torch.no_grad():  # far from the start of training, so that pictures and prompts matter
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.25)
        model.logit_scale.fill_(scale)
    model.save_pretrained(folder)
    return folder


class OpenClip(nn.Module):
    """CLIP as open_clip names and computes it (exact GELU, pre-norm, pooled at the highest token id)."""

    def __init__(
        self, width: int = 64, text_width: int = 64, layers: int = 2, projection: int = 24, words: int = WORDS
    ):
        super().__init__()
        self.visual = nn.Module()
        places = (SIZE // PATCH) ** 2 + 1
        self.visual.conv1 = nn.Conv2d(3, width, PATCH, PATCH, bias=False)
        self.visual.class_embedding = nn.Parameter(torch.randn(width) * 0.3)
        self.visual.positional_embedding = nn.Parameter(torch.randn(places, width) * 0.3)
        self.visual.ln_pre, self.visual.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.visual.transformer = _blocks(width, layers)
        self.visual.proj = nn.Parameter(torch.randn(width, projection) * 0.3)
        self.transformer = _blocks(text_width, layers)
        self.token_embedding = nn.Embedding(words, text_width)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, text_width) * 0.3)
        self.ln_final = nn.LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.randn(text_width, projection) * 0.3)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))
        for parameter in self.parameters():
            if parameter.ndim == 1 and parameter is not self.visual.class_embedding:
                nn.init.normal_(parameter, 0.5, 0.3)  # layer norms and biases too: a lost one must show

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        v = self.visual
        x = v.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], dim=1) + v.positional_embedding
        return F.normalize(v.ln_post(_run(v.transformer, v.ln_pre(x)))[:, 0] @ v.proj, dim=-1)

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        mask = torch.full((ids.shape[1], ids.shape[1]), -math.inf).triu(1)
        x = self.ln_final(
            _run(self.transformer, self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]], mask)
        )
        return F.normalize(x[torch.arange(len(x)), ids.argmax(dim=-1)] @ self.text_projection, dim=-1)


def _blocks(width: int, layers: int) -> nn.Module:
    block = nn.Module()
    block.resblocks = nn.ModuleList()
    for _ in range(layers):
        one = nn.Module()
        one.ln_1, one.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        one.attn = nn.MultiheadAttention(width, max(1, width // 64), batch_first=True)
        one.mlp = nn.Module()
        one.mlp.c_fc, one.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        block.resblocks.append(one)
    return block


def _run(transformer: nn.Module, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    for one in transformer.resblocks:
        y = one.ln_1(x)
        x = x + one.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        x = x + one.mlp.c_proj(F.gelu(one.mlp.c_fc(one.ln_2(x))))
    return x


def save_open_clip(folder: Path, file: str = "HPS_v2.1_compressed.pt", seed: int = 0) -> tuple[Path, OpenClip]:
    """An open_clip checkpoint as HPSv2 publishes it, {"state_dict": ...}, with a tokenizer beside it."""
    torch.manual_seed(seed)
    model = OpenClip(words=len(save_tokenizer(folder))).eval()
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, folder / file)
    return folder, model


class Blip(nn.Module):
    """ImageReward as published: timm's vision transformer, BERT with cross-attention, and the MLP, under their names."""

    def __init__(self, width: int = 64, text_width: int = 48, heads: int = 4, layers: int = 2, words: int = 120):
        super().__init__()
        self.heads, self.vision_heads = heads, max(1, width // 64)
        self.blip = nn.Module()
        v = self.blip.visual_encoder = nn.Module()
        v.cls_token = nn.Parameter(torch.randn(1, 1, width))
        v.pos_embed = nn.Parameter(torch.randn(1, (SIZE // PATCH) ** 2 + 1, width))
        v.patch_embed = nn.Module()
        v.patch_embed.proj = nn.Conv2d(3, width, PATCH, PATCH)
        v.blocks = nn.ModuleList([_vision_block(width) for _ in range(layers)])
        v.norm = nn.LayerNorm(width, eps=1e-6)
        t = self.blip.text_encoder = nn.Module()
        t.embeddings = nn.Module()
        t.embeddings.word_embeddings = nn.Embedding(words, text_width)
        t.embeddings.position_embeddings = nn.Embedding(64, text_width)
        t.embeddings.LayerNorm = nn.LayerNorm(text_width, eps=1e-12)
        t.embeddings.register_buffer("position_ids", torch.arange(64)[None])
        t.encoder = nn.Module()
        t.encoder.layer = nn.ModuleList([_text_layer(text_width, width) for _ in range(layers)])
        self.blip.vision_proj, self.blip.text_proj = nn.Linear(width, 8), nn.Linear(text_width, 8)
        self.mlp = nn.Module()
        widths = [text_width, 32, 16, 8, 4, 1]
        self.mlp.layers = nn.ModuleDict(
            {str(i): nn.Linear(a, b) for i, a, b in zip((0, 2, 4, 6, 7), widths[:-1], widths[1:], strict=True)}
        )
        for name, parameter in self.named_parameters():
            if "LayerNorm" in name or "norm" in name:
                nn.init.normal_(parameter, 0.7, 0.3)

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        v, t = self.blip.visual_encoder, self.blip.text_encoder
        x = v.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([v.cls_token.expand(len(x), -1, -1), x], dim=1) + v.pos_embed
        for b in v.blocks:
            q, k, val = b.attn.qkv(b.norm1(x)).chunk(3, dim=-1)
            x = x + b.attn.proj(_attend(q, k, val, self.vision_heads))
            x = x + b.mlp.fc2(F.gelu(b.mlp.fc1(b.norm2(x))))
        seen = v.norm(x)
        h = t.embeddings.LayerNorm(
            t.embeddings.word_embeddings(ids)
            + t.embeddings.position_embeddings(t.embeddings.position_ids[:, : ids.shape[1]])
        )
        for layer in t.encoder.layer:
            for part, source, keep in ((layer.attention, None, mask), (layer.crossattention, seen, None)):
                source = h if source is None else source
                s = part.self
                attended = _attend(s.query(h), s.key(source), s.value(source), self.heads, keep)
                h = part.output.LayerNorm(part.output.dense(attended) + h)
            h = layer.output.LayerNorm(layer.output.dense(F.gelu(layer.intermediate.dense(h))) + h)
        x = h[:, 0]
        for layer in self.mlp.layers.values():
            x = layer(x)
        return (x[:, 0] - 0.16717362830052426) / 1.0333394966054072


def _attend(q, k, v, heads: int, keep: torch.Tensor | None = None) -> torch.Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    mask = None if keep is None else keep.bool()[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _module(**parts: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def _vision_block(width: int) -> nn.Module:
    return _module(
        norm1=nn.LayerNorm(width, eps=1e-6), norm2=nn.LayerNorm(width, eps=1e-6),
        attn=_module(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)),
        mlp=_module(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width)),
    )  # fmt: skip


def _text_layer(width: int, seen: int) -> nn.Module:
    def attention(source: int) -> nn.Module:
        own = _module(query=nn.Linear(width, width), key=nn.Linear(source, width), value=nn.Linear(source, width))
        return _module(
            self=own, output=_module(dense=nn.Linear(width, width), LayerNorm=nn.LayerNorm(width, eps=1e-12))
        )

    return _module(
        attention=attention(width), crossattention=attention(seen), intermediate=_module(dense=nn.Linear(width, 2 * width)),
        output=_module(dense=nn.Linear(2 * width, width), LayerNorm=nn.LayerNorm(width, eps=1e-12)),
    )  # fmt: skip


def save_image_reward(folder: Path, seed: int = 0) -> tuple[Path, Blip]:
    """ImageReward.pt, med_config.json and BERT's vocab.txt."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(97, 123)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    vocabulary += ["red", "blue", "green", "circle", "square", "star"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    config = {
        "num_attention_heads": 4,
        "hidden_size": 48,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "add_cross_attention": True,
    }
    (folder / "med_config.json").write_text(json.dumps(config))
    model = Blip().eval()
    torch.save(model.state_dict(), folder / "ImageReward.pt")
    return folder, model
