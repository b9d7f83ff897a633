"""What a picture shows, from its pixels alone: colour, shape, place, size, ground.

Nothing here knows how a picture was made, so base samples, aligned samples and drawn pictures are measured alike.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from palate.arrays import Bools, Floats, Pixels, Texts
from palate.errors import PalateError
from palate.world.pictures import COLOURS, SHAPES, SIZE, coverage

SYMMETRY = {"circle": 1, "square": 4, "triangle": 3, "star": 5, "cross": 4}  # turns that leave the shape as it is
VISIBLE = 0.15  # RGB distance from the ground below which nothing counts as drawn


@dataclass(frozen=True)
class Measurement:
    """One row per picture; every array is [N]."""

    colour: Texts  # name of the palette colour nearest to what was drawn, "" where nothing was
    colour_right: Bools  # bool: the colour the prompt asks for
    iou: Floats  # overlap with the ideal shape at the measured place, size and turn, in [0, 1]
    centring: Floats  # 1 in the middle, 0 at half a picture's width away or where nothing was drawn
    size: Floats  # radius of the shape as a share of half the picture
    brightness: Floats  # of the ground, in [0, 1]

    @property
    def fidelity(self) -> Floats:
        """The overlap, or 0 where the colour is wrong: how well the picture shows what the prompt names."""
        return self.iou * self.colour_right


def measure(images: Floats | Pixels, prompts: list[str]) -> Measurement:
    """Measure pictures [N, SIZE, SIZE, 3] (uint8, or float in [0, 1]) against their prompts ("a red circle").

    Raises PalateError for a prompt that is not one of the world's, or pictures of another size.
    """
    if images.shape[1:] != (SIZE, SIZE, 3):
        raise PalateError(f"the world measures pictures of {SIZE}x{SIZE} pixels, these are {images.shape[1:]}")
    scale = np.float32(255 if images.dtype == np.uint8 else 1)
    pictures = images.astype(np.float32) / scale
    asked = [_parse(prompt) for prompt in prompts]
    parts = [_measure_one(image, colour, shape) for image, (colour, shape) in zip(pictures, asked, strict=True)]
    columns = [np.array(column) for column in zip(*parts, strict=True)]
    return Measurement(*columns)


def _parse(prompt: str) -> tuple[str, str]:
    words = prompt.split()
    if len(words) != 3 or words[1] not in COLOURS or words[2] not in SHAPES:
        raise PalateError(f"prompt {prompt!r} is not of the world; it knows 'a COLOUR SHAPE' of {', '.join(COLOURS)} "
                          f"and {', '.join(SHAPES)}")  # fmt: skip
    return words[1], words[2]


def _measure_one(image: Texts, colour: str, shape: str) -> tuple[str, bool, float, float, float, float]:
    border = np.concatenate(
        [image[:2].reshape(-1, 3), image[-2:].reshape(-1, 3), image[:, :2].reshape(-1, 3), image[:, -2:].reshape(-1, 3)]
    )
    ground = np.median(border, axis=0)  # [3]
    distance = np.linalg.norm(image - ground, axis=-1)  # [H, W]
    peak = np.quantile(distance, 0.995)
    if peak < VISIBLE:
        return "", False, 0.0, 0.0, 0.0, float(ground.mean())
    figure = np.median(image[distance > 0.6 * peak], axis=0)  # [3]
    direction = figure - ground
    alpha = np.clip((image - ground) @ direction / (direction @ direction), 0, 1)
    alpha[alpha < 0.2] = 0  # an uneven ground is not part of the shape
    found = min(COLOURS, key=lambda name: float(np.linalg.norm(figure - COLOURS[name])))

    grid = np.arange(SIZE) + 0.5
    area = alpha.sum()
    x, y = alpha.sum(0) @ grid / area, alpha.sum(1) @ grid / area
    radius = np.sqrt(area / _unit_area(shape))
    ideal = coverage(shape, x, y, radius, _turn(alpha, x, y, shape))
    iou = np.minimum(alpha, ideal).sum() / np.maximum(alpha, ideal).sum()
    off_centre = np.hypot(x - SIZE / 2, y - SIZE / 2) / (SIZE / 2)
    return (
        found,
        found == colour,
        float(iou),
        float(max(0.0, 1 - off_centre)),
        float(radius / (SIZE / 2)),
        float(ground.mean()),
    )


def _turn(alpha: Floats, x: float, y: float, shape: str) -> float:
    """The turn of an n-fold symmetric shape: the phase of its n-th angular moment against that of the shape
    unturned."""
    return (_phase(alpha, x, y, shape) - _phase_unturned(shape)) / SYMMETRY[shape]


def _phase(alpha: Floats, x: float, y: float, shape: str) -> float:
    grid = np.arange(SIZE) + 0.5
    point = (grid[None, :] - x) + 1j * (grid[:, None] - y)
    return float(np.angle((alpha * point ** SYMMETRY[shape]).sum()))


@cache
def _phase_unturned(shape: str) -> float:
    return _phase(_upright(shape), SIZE / 2, SIZE / 2, shape)


@cache
def _unit_area(shape: str) -> float:
    """Area of the shape of radius 1."""
    return float(_upright(shape).sum()) / 20**2


def _upright(shape: str) -> Floats:
    return coverage(shape, SIZE / 2, SIZE / 2, 20, 0)
