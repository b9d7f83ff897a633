"""Pipeline folders of Stable Diffusion 3, FLUX.1, FLUX.2-klein, PixArt, Qwen-Image and Sana in miniature: true formats, random weights."""

import string
from pathlib import Path

import sentencepiece
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from palate.demos.pretrain import make_tokenizer

WORDS = ("a", "red", "blue", "green", "circle", "square", "star")
TOKENS = 16  # that the tiny tokenizers of T5, Gemma and Qwen read of a prompt
TEXT = 32  # width of every text encoder


def make_sd3(folder: Path, t5: bool = True, **transformer) -> Path:
    """Stable Diffusion 3 scaled down; `t5` off as users save it to spare the memory."""
    torch.manual_seed(0)
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=2 * TEXT, caption_projection_dim=16, pooled_projection_dim=2 * TEXT, pos_embed_max_size=8, **transformer,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_kl(16, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=_clip(CLIPTextModelWithProjection), tokenizer=make_tokenizer(),
        text_encoder_2=_clip(CLIPTextModelWithProjection), tokenizer_2=make_tokenizer(),
        text_encoder_3=_t5(2 * TEXT) if t5 else None, tokenizer_3=_t5_tokenizer() if t5 else None,
    )  # fmt: skip
    return _saved(pipeline, folder)


def make_sd35(folder: Path) -> Path:
    """3.5: the same with normalised queries and keys, and a second attention in the first block."""
    return make_sd3(folder, qk_norm="rms_norm", dual_attention_layers=(0,))


def make_flux(folder: Path, guidance: bool = True) -> Path:
    """FLUX.1-dev scaled down."""
    torch.manual_seed(0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True) if guidance else None
    pipeline = FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=TEXT,
            pooled_projection_dim=TEXT, guidance_embeds=guidance, axes_dims_rope=(2, 2, 4),
        ),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=1.0), vae=_kl(4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=_clip(CLIPTextModel), tokenizer=make_tokenizer(), text_encoder_2=_t5(TEXT), tokenizer_2=_t5_tokenizer(),
    )  # fmt: skip
    return _saved(pipeline, folder)


def make_flux_schnell(folder: Path) -> Path:
    """Schnell: no guidance embedding, no dynamic shift."""
    return make_flux(folder, guidance=False)


def make_flux2_klein(folder: Path, is_distilled: bool = False) -> Path:
    """FLUX.2-klein scaled down: the base model with guidance, or the one distilled in steps."""
    torch.manual_seed(0)
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16), latent_channels=4, norm_num_groups=4, layers_per_block=1, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    tokenizer = _qwen_tokenizer()
    text_encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=27, num_attention_heads=1, num_key_value_heads=1,
            head_dim=8, max_position_embeddings=64,
        )
    )  # fmt: skip
    pipeline = Flux2KleinPipeline(
        transformer=Flux2Transformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=24,
            timestep_guidance_channels=16, axes_dims_rope=(2, 2, 2, 2), guidance_embeds=False,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=vae, text_encoder=text_encoder,
        tokenizer=tokenizer, is_distilled=is_distilled,
    )  # fmt: skip
    return _saved(pipeline, folder)


def make_pixart(folder: Path, alpha: bool = False) -> Path:
    """PixArt-Sigma scaled down, or PixArt-Alpha at 1024 pixels, which is told sizes."""
    torch.manual_seed(
        0
    )  # scaling_factor: latents of a random autoencoder are small, and two images must differ in bf16
    kind = PixArtAlphaPipeline if alpha else PixArtSigmaPipeline
    pipeline = kind(
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=1, cross_attention_dim=24,
            sample_size=128 if alpha else 8, patch_size=2, caption_channels=TEXT,
        ),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02), vae=_kl(4, scaling_factor=2.5),
        text_encoder=_t5(TEXT), tokenizer=_t5_tokenizer(),
    )  # fmt: skip
    _saved(pipeline, folder)
    _as_sentencepiece(folder / "tokenizer")
    return folder


def make_qwen_image(folder: Path) -> Path:
    """Qwen-Image scaled down."""
    torch.manual_seed(0)
    tokenizer = _qwen_tokenizer(320)  # letters, and the pipeline says a long sentence before every prompt
    text_encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "hidden_size": TEXT, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
                "vocab_size": len(tokenizer), "rope_parameters": {"mrope_section": [2, 2, 4], "rope_type": "default", "rope_theta": 1e6},
                "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1,
            },
            vision_config={
                "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": TEXT, "fullatt_block_indexes": [0],
            },
        )
    )  # fmt: skip
    pipeline = QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=TEXT,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192),
        vae=AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[2.0, 1.5, 1.0, 0.5],
        ),
        text_encoder=text_encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return _saved(pipeline, folder)


def make_sana(folder: Path) -> Path:
    """Sana scaled down."""
    torch.manual_seed(0)
    blocks = ("ResBlock",) * 5 + ("EfficientViTBlock",)
    levels, layers, scales = (8, 8, 8, 8, 8, 16), (1,) * 6, ((),) * 6
    vae = AutoencoderDC(
        latent_channels=8, attention_head_dim=8, encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=levels, decoder_block_out_channels=levels, encoder_layers_per_block=layers,
        decoder_layers_per_block=layers, encoder_qkv_multiscales=scales, decoder_qkv_multiscales=scales, scaling_factor=0.41407,
    )  # fmt: skip
    tokenizer = _gemma_tokenizer()
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=TEXT, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16,
        )
    )  # fmt: skip
    pipeline = SanaPipeline(
        transformer=SanaTransformer2DModel(
            in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_cross_attention_heads=2,
            cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=TEXT, sample_size=2, timestep_scale=0.5,
        ),
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return _saved(pipeline, folder)


def _kl(channels: int, **scale: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), latent_channels=channels, norm_num_groups=4, layers_per_block=1, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **scale,
    )  # fmt: skip


def _clip(kind: type):
    tokenizer = make_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=8,
        projection_dim=TEXT, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return kind(config)


def _t5(width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(_t5_tokenizer()), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )  # fmt: skip
    return T5EncoderModel(config)


def _t5_tokenizer() -> T5TokenizerFast:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [("▁" + word, -3.0) for word in WORDS] + [(letter, -9.0) for letter in string.ascii_lowercase]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TOKENS)


def _as_sentencepiece(folder: Path) -> None:
    """The tokenizer in the older format: a sentencepiece model alone, which is all that PixArt's folders hold."""
    (folder / "tokenizer.json").unlink()
    with open(folder / "spiece.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*(" ".join(WORDS[i:] + WORDS[:i]) for i in range(7)), string.ascii_lowercase]),
            model_writer=file, vocab_size=36, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
        )  # fmt: skip


def _gemma_tokenizer() -> GemmaTokenizerFast:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *string.printable[:94]]
    tokenizer = GemmaTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=TOKENS)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return tokenizer


def _qwen_tokenizer(tokens_read: int = TOKENS) -> Qwen2TokenizerFast:
    tokens = [*ByteLevel.alphabet(), "<|endoftext|>"]
    template = "{% for message in messages %}{{ message['role'][0] + ' ' + message['content'] }}{% endfor %}"
    return Qwen2TokenizerFast(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[],
        model_max_length=tokens_read,
        chat_template=template,
    )


def _saved(pipeline, folder: Path) -> Path:
    """Biases and norms away from their starting values, so that none of them can be left out unseen."""
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            for parameter in component.parameters():
                parameter.data += 0.05 * torch.randn(parameter.shape)
    pipeline.save_pretrained(folder)
    return folder
