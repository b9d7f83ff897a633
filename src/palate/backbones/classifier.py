"""PC-Diffusion (arXiv 2511.07806): a small preference classifier on noised latents, which guides a model that stays as
it is."""

from pathlib import Path

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from palate.backbones.components import require_whole
from palate.errors import PalateError, first_line
from palate.files import refuse_damaged
from palate.objectives.logit import full_precision

GROUPS = 8  # of every group normalisation; each image is normalised by itself, so that no image depends on its batch


class PreferenceClassifier(ModelMixin, ConfigMixin):
    """f(x_t, t, c): how much the picture that x_t will become is preferred under the prompt c, one number per image.

    Only differences of f under one prompt mean anything: z = f(x_t of image 0) - f(x_t of image 1), with the draw (t,
    noise) shared by the pair, is the logit of the pair, and there is no reference. A new classifier is 0 everywhere, so
    that every logit starts at exactly 0 and guidance by it changes nothing.

    The paper's architecture and formulas are not visible; this one is derived: three stages of residual blocks, each
    halving the latents' sides, conditioned on t and on the mean of the prompt's embeddings by scale and shift, then a
    mean over the places. `width` is the channels of the first stage, a multiple of 8; 64 makes 2.5 million parameters.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 4, text_width: int = 768, width: int = 64):
        super().__init__()
        if width <= 0 or width % GROUPS:
            raise PalateError(f"width of the preference classifier: {width} is not a multiple of {GROUPS}.")
        channels = (width, 2 * width, 4 * width)
        self.time_frequencies = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width, 4 * width)
        self.text_embedding = nn.Linear(text_width, 4 * width)
        self.conv_in = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.stages = nn.ModuleList(_stage(i, o, 4 * width) for i, o in zip((width, *channels), channels, strict=False))
        self.halve = nn.ModuleList(nn.Conv2d(c, c, 3, stride=2, padding=1) for c in channels)
        self.norm_out = nn.GroupNorm(GROUPS, channels[-1])
        self.head = nn.Linear(channels[-1], 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, noisy: Tensor, timestep: Tensor | float, embeddings: Tensor) -> Tensor:
        """f [B], fp32, for noised latents [B, C, h, w] of any size, timestep [B] or one for all, embeddings [B, L,
        D]."""
        noisy, embeddings = noisy.to(self.dtype), embeddings.to(self.dtype)
        timestep = torch.as_tensor(timestep, device=noisy.device).reshape(-1).expand(len(noisy))
        condition = self.time_embedding(self.time_frequencies(timestep).to(self.dtype))
        condition = condition + self.text_embedding(embeddings.mean(dim=1))
        hidden = self.conv_in(noisy)
        for stage, halve in zip(self.stages, self.halve, strict=True):
            hidden = halve(stage(hidden, condition))
        pooled = nn.functional.silu(self.norm_out(hidden)).mean(dim=(2, 3))
        return full_precision(self.head(pooled)).squeeze(1)


def load_classifier(folder: str | Path) -> PreferenceClassifier:
    """The classifier that `save_pretrained` wrote (config.json, diffusion_pytorch_model.safetensors), frozen, fp32.

    Raises PalateError when the folder does not hold one.
    """
    refuse_damaged(Path(folder).parent, "The same `palate train` command writes it again.")
    try:
        options = {"torch_dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        classifier: PreferenceClassifier
        classifier, told = PreferenceClassifier.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise PalateError(
            f"{folder}: no preference classifier could be loaded ({first_line(error)}). It needs"
            " config.json and diffusion_pytorch_model.safetensors; the same `palate train` command writes them again."
        ) from error
    require_whole(Path(folder), told)
    classifier.eval().requires_grad_(False)
    return classifier


def _stage(channels: int, out_channels: int, condition: int) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=channels,
        out_channels=out_channels,
        temb_channels=condition,
        groups=GROUPS,
        time_embedding_norm="scale_shift",
    )
