"""The LAION aesthetic predictor: an MLP on the CLIP ViT-L/14 embedding of a picture; the prompt plays no part.

Trained on ratings from 1 to 10 (sac+logos+ava1-l14-linearMSE). Between its layers there is drop-out and nothing else,
so the whole head is an affine map; it is applied layer by layer in fp32, as published.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from palate.errors import PalateError
from palate.judges.base import Pair
from palate.judges.clip import KINDS, image_features, load_clip
from palate.judges.weights import (
    DTYPES,
    choose_device,
    choose_dtype,
    content_hash,
    find_file,
    find_model,
    load_state,
)

_LAYERS = (0, 2, 4, 6, 7)  # the published names; the numbers between are drop-out


class AestheticJudge:
    """`model` is a CLIP ViT-L/14 (folder or hub name), `head` the file of the MLP, looked for in the folder by
    default."""

    version = "1"
    batch_size = 16

    def __init__(
        self, model: str | None = None, head: str | None = None, device: str | None = None, dtype: str | None = None
    ):
        address, patterns, *_ = KINDS["clip"]
        beside = Path(model or address).expanduser()
        if head is None and not any(beside.glob("*MSE.pth")):  # before anything is fetched
            raise PalateError(
                f"{beside}: the aesthetic head is not there. Give it with --set head=FILE "
                "(sac+logos+ava1-l14-linearMSE.pth of christophschuhmann/improved-aesthetic-predictor)."
            )
        self.head_path = find_file(Path(head).expanduser() if head else beside, ("*MSE.pth",), "the aesthetic head")
        self.path = find_model(model or address, patterns)
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {"weights": content_hash(self.path), "head": content_hash(self.head_path), "dtype": self.dtype}

    @cached_property
    def model(self) -> Any:
        return load_clip(self.path, "aesthetic").to(self.device, DTYPES[self.dtype])

    @cached_property
    def head(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        layers = load_head(self.head_path)
        given, wanted = self.model.config.projection_dim, layers[0][0].shape[1]
        if given != wanted:
            raise PalateError(
                f"{self.path}: gives embeddings of {given} numbers, but the head {self.head_path.name} takes {wanted}. "
                "Use CLIP ViT-L/14."
            )
        return [(weight.to(self.device), bias.to(self.device)) for weight, bias in layers]

    @torch.no_grad()
    def embed(self, images: list[Image.Image]) -> np.ndarray:
        """Unit vectors [N, D] of N pictures, fp32."""
        return image_features(self.model, images).cpu().numpy()

    def vote(self, pairs: list[Pair], embeddings: np.ndarray | None = None) -> np.ndarray:
        """Scores [N, 2], about 1 to 10; embeddings [2N, D] of the images 0 and the images 1, made here when absent."""
        if embeddings is None:
            embeddings = self.embed([pair.image_0 for pair in pairs] + [pair.image_1 for pair in pairs])
        return self._rated(embeddings).reshape(2, -1).T

    def score(self, images: list[Image.Image], prompts: list[str] | None = None) -> np.ndarray:
        """Scores [N] of single pictures."""
        return self._rated(self.embed(images))

    @torch.no_grad()
    def _rated(self, embeddings: np.ndarray) -> np.ndarray:
        """Scores [N] of embeddings [N, D]."""
        x = torch.from_numpy(embeddings).to(self.device)
        for weight, bias in self.head:
            x = torch.nn.functional.linear(x, weight, bias)
        return x[:, 0].cpu().double().numpy()


def load_head(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights and biases of the five layers, fp32. Raises PalateError for another file."""
    if not path.is_file():
        raise PalateError(f"{path}: no such file. Give the aesthetic head.")
    state = load_state(path)
    names = [f"layers.{layer}.{kind}" for layer in _LAYERS for kind in ("weight", "bias")]
    if set(state) != set(names) or state[names[-2]].shape[0] != 1:
        raise PalateError(f"{path}: not the aesthetic head (five layers named layers.0 to layers.7). Give that file.")
    return [(state[f"layers.{layer}.weight"].float(), state[f"layers.{layer}.bias"].float()) for layer in _LAYERS]
