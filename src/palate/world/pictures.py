"""Pictures of one shape in one colour on a plain ground, drawn by code.

The caption names colour and shape. It is silent about position, size, rotation and background, so a model that learns
these pictures varies there, and that is where taste has something to choose.
"""

from dataclasses import dataclass

import numpy as np

from palate.arrays import Floats

SIZE = 64  # pixels, width and height

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = {  # sRGB in [0, 1]; saturated, so that none is near the grey grounds
    "red": (0.86, 0.12, 0.14),
    "green": (0.13, 0.65, 0.24),
    "blue": (0.14, 0.28, 0.86),
    "yellow": (0.95, 0.84, 0.12),
    "purple": (0.56, 0.18, 0.72),
    "orange": (0.96, 0.52, 0.10),
}
PROMPTS = tuple(f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES)  # all 30


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Lengths in pixels, the angle in radians, brightness of the ground in [0, 1]."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float
    brightness: float

    @property
    def caption(self) -> str:
        return f"a {self.colour} {self.shape}"


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene with everything that the caption leaves open drawn at random, the shape wholly inside the picture."""
    radius = rng.uniform(10, 20)
    x, y = rng.uniform(radius, SIZE - radius, 2)
    shape, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
    return Scene(str(shape), str(colour), x, y, radius, rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.95))


def coverage(shape: str, x: Floats | float, y: Floats | float, radius: Floats | float, angle: Floats | float) -> Floats:
    """Share of each pixel that the shape covers, anti-aliased over one pixel.

    x, y, radius, angle: broadcastable arrays [...]; returns [..., SIZE, SIZE] in [0, 1]. `radius` is that of the circle
    around the shape.
    """
    x0, y0, size, turn = (np.asarray(a, np.float32)[..., None, None] for a in (x, y, radius, angle))
    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    dx, dy = grid[None, :] - x0, grid[:, None] - y0
    u = np.cos(turn) * dx + np.sin(turn) * dy
    v = -np.sin(turn) * dx + np.cos(turn) * dy
    covered: Floats = np.clip(0.5 - _signed_distance(shape, u, v, size), 0, 1)
    return covered


def draw(scene: Scene) -> Floats:
    """The picture of a scene, float32 [SIZE, SIZE, 3] in [0, 1]."""
    alpha = coverage(scene.shape, scene.x, scene.y, scene.radius, scene.angle)[..., None]
    colour, ground = np.array(COLOURS[scene.colour], np.float32), np.float32(scene.brightness)
    return (alpha * colour + (1 - alpha) * ground).astype(np.float32)


def _signed_distance(shape: str, u: Floats, v: Floats, radius: Floats) -> Floats:
    """Distance of the points (u, v) from the outline, in pixels, negative inside (near the outline, where it
    matters)."""
    if shape == "circle":
        from_centre: Floats = np.hypot(u, v) - radius
        return from_centre
    if shape == "square":
        sides: Floats = np.maximum(abs(u), abs(v)) - radius / np.sqrt(2, dtype=np.float32)
        return sides
    if shape == "triangle":
        return _half_planes(u, v, radius * 0.5, 3)
    if shape == "cross":
        half, arm = radius * 0.95, radius * 0.32
        bars: Floats = np.minimum(np.maximum(abs(u) - half, abs(v) - arm), np.maximum(abs(v) - half, abs(u) - arm))
        return bars
    if shape == "star":  # a pentagram: inside at least four of its five half-planes
        distances = _plane_distances(u, v, radius * np.cos(np.float32(2 * np.pi / 5)), 5)
        fourth: Floats = np.sort(distances, axis=0)[3]
        return fourth
    raise ValueError(f"{shape!r} is not a shape of the world")


def _plane_distances(u: Floats, v: Floats, inner: Floats, sides: int) -> Floats:
    """Signed distances [sides, ...] from the sides of a regular polygon with inner radius `inner`."""
    turns = [2 * np.pi * k / sides for k in range(sides)]
    return np.stack([np.float32(np.sin(a)) * u + np.float32(np.cos(a)) * v - inner for a in turns])


def _half_planes(u: Floats, v: Floats, inner: Floats, sides: int) -> Floats:
    furthest: Floats = _plane_distances(u, v, inner, sides).max(axis=0)
    return furthest
