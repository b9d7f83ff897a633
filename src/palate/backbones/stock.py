"""What a single file leaves out: the configurations and the tokenizer of Stable Diffusion 1.x and XL, as their
pipelines on the hub have them, so that such a file can be opened without the hub."""

import gzip
import json
from pathlib import Path
from typing import Any

from palate.backbones.configs import read_json

MERGES = Path(__file__).parent / "clip-merges.txt.gz"  # of CLIP (MIT licence, OpenAI), in both families
START, END = "<|startoftext|>", "<|endoftext|>"
SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
COMPONENTS = {  # of each pipeline: library and class; the scheduler's class is that of its configuration
    SD: {
        "vae": ("diffusers", "AutoencoderKL"), "text_encoder": ("transformers", "CLIPTextModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"), "unet": ("diffusers", "UNet2DConditionModel"),
    },
}  # fmt: skip
COMPONENTS[SDXL] = COMPONENTS[SD] | {
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"), "tokenizer_2": ("transformers", "CLIPTokenizer"),
}  # fmt: skip

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
_VAE = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "in_channels": 3,
    "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32,
}  # fmt: skip
_CLIP_L = {
    "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "quick_gelu", "hidden_size": 768,
    "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12, "max_position_embeddings": 77,
    "vocab_size": 49408, "projection_dim": 768, "layer_norm_eps": 1e-05, "bos_token_id": 0, "eos_token_id": 2,
    "pad_token_id": 1,
}  # fmt: skip
_CLIP_G = _CLIP_L | {
    "architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu", "hidden_size": 1280,
    "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32, "projection_dim": 1280,
}  # fmt: skip
_UNET = {
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
    "norm_num_groups": 32, "norm_eps": 1e-05, "freq_shift": 0, "flip_sin_to_cos": True, "center_input_sample": False,
    "downsample_padding": 1, "mid_block_scale_factor": 1,
}  # fmt: skip

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    SD: {
        "vae": _VAE | {"sample_size": 512, "scaling_factor": 0.18215},
        "text_encoder": _CLIP_L,
        "unet": _UNET | {
            "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
        "scheduler": _BETAS | {
            "_class_name": "PNDMScheduler", "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True,
            "steps_offset": 1, "prediction_type": "epsilon", "trained_betas": None,
        },
    },
    SDXL: {
        "vae": _VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "text_encoder": _CLIP_L,
        "text_encoder_2": _CLIP_G,
        "unet": _UNET | {
            "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10],
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "scheduler": _BETAS | {
            "_class_name": "EulerDiscreteScheduler", "clip_sample": False, "set_alpha_to_one": False,
            "skip_prk_steps": True, "steps_offset": 1, "prediction_type": "epsilon", "interpolation_type": "linear",
            "timestep_spacing": "leading", "use_karras_sigmas": False, "trained_betas": None,
        },
    },
}  # fmt: skip


def config_file(component: str) -> str:
    """The name of a component's configuration."""
    return "scheduler_config.json" if component == "scheduler" else "config.json"


def write_index(folder: Path, pipeline: str, scheduler: str) -> None:
    """model_index.json of a pipeline with these parts."""
    index: dict[str, object] = {"_class_name": pipeline, "scheduler": ["diffusers", scheduler]}
    index |= {name: list(kind) for name, kind in COMPONENTS[pipeline].items()}
    if pipeline == SD:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    else:
        index["force_zeros_for_empty_prompt"] = True
    _write(folder / "model_index.json", index)


def write_stock(folder: Path, pipeline: str) -> None:
    """Write the configurations and tokenizers of a stock pipeline into a folder, everything but its weights."""
    write_index(folder, pipeline, CONFIGS[pipeline]["scheduler"]["_class_name"])
    for component, config in CONFIGS[pipeline].items():
        _write(folder / component / config_file(component), config)
    for component in (name for name in COMPONENTS[pipeline] if name.startswith("tokenizer")):
        write_tokenizer(folder / component, padding="!" if component == "tokenizer_2" else END)


def write_tokenizer(folder: Path, padding: str = END) -> None:
    """Write CLIP's tokenizer into a folder; Stable Diffusion XL's second one differs in what it pads with."""
    merges = stock_merges()
    _write(folder / "vocab.json", stock_vocabulary())
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    _write(folder / "special_tokens_map.json", special)
    options = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77}
    _write(folder / "tokenizer_config.json", options | special | {"tokenizer_class": "CLIPTokenizer"})


def is_stock_tokenizer(folder: Path) -> bool:
    """Whether a folder holds CLIP's own tokenizer with nothing added to it, in the form of two files."""
    files = [folder / name for name in ("vocab.json", "merges.txt")]
    if not all(file.is_file() for file in files) or (folder / "added_tokens.json").is_file():
        return False
    lines = [line for line in files[1].read_text(encoding="utf-8").splitlines() if not line.startswith("#version")]
    return read_json(files[0]) == stock_vocabulary() and lines == stock_merges()


def stock_merges() -> list[str]:
    """The pairs of CLIP's byte-pair encoding, in their order."""
    return gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()


def stock_vocabulary() -> dict[str, int]:
    """Token to number: 256 bytes, the same at the end of a word, what the merges make, start and end."""
    letters = _bytes()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(m.replace(" ", "") for m in stock_merges())]
    return {token: number for number, token in enumerate([*tokens, START, END])}


def _bytes() -> list[str]:
    """The 256 bytes as letters (Radford et al. 2019): printable ones stand for themselves and come first, the others
    for those from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(0x100 + n) for n in range(256 - len(printable))]


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
