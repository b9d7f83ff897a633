"""What an emoji picture shows, from its pixels alone: which name, in whose style, how large, how colourful.

A small convolutional network, trained on the artists' drawings by `palate.demos.emoji_classifier`, computed here with
numpy: it says how probably a picture is each of them, a name in a style. Nothing here knows how a picture was made, so
base samples, aligned samples and the artists' own are measured alike.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from palate.arrays import Bools, Floats, Pixels, Texts
from palate.errors import PalateError
from palate.world.emoji_pictures import NAMES, SIZE, STYLES, parse

WEIGHTS = Path(__file__).parent / "emoji_classifier.npz"
AT_ONCE = 256  # pictures; bounds the memory


@dataclass(frozen=True)
class EmojiMeasurement:
    """One row per picture; every array is [N] unless it says otherwise."""

    asked: list[str]  # the name that the prompt asks for
    name: Texts  # the name that the picture shows most probably
    right: Floats  # probability of the asked name, in [0, 1]
    style: Floats  # [N, 4] probabilities of STYLES
    saturation: Floats  # of what is drawn: mean of the largest minus the smallest channel, in [0, 1]
    brightness: Floats  # of what is drawn: mean luminance, in [0, 1]
    size: Floats  # share of the pixels that are not white

    @property
    def recognised(self) -> Bools:
        """Whether the picture shows what was asked for, bool [N]."""
        same: Bools = self.name == np.array(self.asked)
        return same


def measure_emoji(images: Pixels | Floats, prompts: list[str]) -> EmojiMeasurement:
    """Measure pictures [N, SIZE, SIZE, 3] (uint8, or float in [0, 1]) against their prompts ("red apple, glossy").

    Raises PalateError for a prompt that is not one of the world's, or pictures of another size.
    """
    given = np.asarray(images)
    if given.shape[1:] != (SIZE, SIZE, 3):
        raise PalateError(f"the emoji world measures pictures of {SIZE}x{SIZE} pixels, these are {given.shape[1:]}")
    asked = [parse(prompt)[0] for prompt in prompts]
    if len(asked) != len(given):
        raise PalateError(f"{len(given)} pictures, but {len(asked)} prompts.")
    shown = given.astype(np.float32) / np.float32(255 if given.dtype == np.uint8 else 1)  # [N, H, W, 3]
    parts = [shown[start : start + AT_ONCE] for start in range(0, len(shown), AT_ONCE)]
    drawings = np.concatenate([softmax(network(part)) for part in parts]).reshape(-1, len(NAMES), len(STYLES))
    names = drawings.sum(axis=2)  # [N, names]
    drawn = shown.min(axis=-1) < 0.94  # [N, H, W]
    size = drawn.mean(axis=(1, 2))
    area = np.maximum(drawn.sum(axis=(1, 2)), 1)
    colour = shown.max(axis=-1) - shown.min(axis=-1)
    luminance = shown @ np.array([0.299, 0.587, 0.114], np.float32)
    index = {name: i for i, name in enumerate(NAMES)}
    return EmojiMeasurement(
        asked=asked,
        name=np.array(NAMES)[names.argmax(axis=1)],
        right=names[np.arange(len(asked)), [index[name] for name in asked]],
        style=drawings.sum(axis=1),
        saturation=(colour * drawn).sum(axis=(1, 2)) / area,
        brightness=(luminance * drawn).sum(axis=(1, 2)) / area,
        size=size,
    )


def network(images: Floats) -> Floats:
    """Scores [N, names * styles] for pictures [N, SIZE, SIZE, 3] in [0, 1].

    Three convolutions with a stride, a hidden layer and a linear one; all but the last with a leaky ReLU.
    """
    weights = _weights()
    x = images - np.float32(0.5)
    for layer in range(3):
        x = leaky(convolve(x, weights[f"conv{layer}/weight"], weights[f"conv{layer}/bias"]))
    x = leaky(x.reshape(len(x), -1) @ weights["hidden/weight"] + weights["hidden/bias"])
    return x @ weights["out/weight"] + weights["out/bias"]


def convolve(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """x [N, H, W, C] with weight [k, k, C, D]: a kernel of 4 at every 4th pixel without padding, one of 3 at every 2nd
    with a pixel of zeros around; [N, H/stride, W/stride, D]."""
    kernel = weight.shape[0]
    stride = 4 if kernel == 4 else 2
    if kernel == 3:
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
    summed: Floats = np.einsum("nhwcij,ijcd->nhwd", windows, weight, optimize=True)
    return summed + bias


def leaky(x: Floats) -> Floats:
    kept: Floats = np.maximum(x, np.float32(0.1) * x)
    return kept


def softmax(scores: Floats) -> Floats:
    shifted: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return shares


@cache
def _weights() -> dict[str, Floats]:
    with np.load(WEIGHTS, allow_pickle=False) as stored:
        return {name: stored[name].astype(np.float32) for name in stored.files}
