"""Statistics of a picture that judges are often wrong about: the covariates of the corrected judge."""

import numpy as np

from palate.arrays import Floats
from palate.errors import PalateError

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def picture_statistics(image: np.ndarray) -> dict[str, float]:
    """Six statistics of an RGB picture, uint8 [H, W, 3] with H, W >= 2, each independent of its size.

    brightness  mean luma, 0 to 1                      contrast    standard deviation of the luma
    saturation  mean of largest minus smallest channel warmth      mean red minus mean blue, -1 to 1
    sharpness   mean gradient of the luma, in units per 1/64 of the longer side
    off_centre  distance from the middle of the picture to the middle of its edges, in half diagonals; 0 without edges

    Raises PalateError for another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 2 or image.dtype != np.uint8:
        raise PalateError(
            f"picture statistics: got an array {image.dtype} {image.shape}; give 8-bit RGB [H, W, 3] of at least 2 x 2."
        )
    pixels = image.astype(np.float32) / 255
    luma = pixels @ _LUMA  # [H, W]
    edges = _edges(luma)  # [H-1, W-1]
    mean = pixels.mean(axis=(0, 1), dtype=np.float64)
    return {
        "brightness": float(luma.mean(dtype=np.float64)),
        "contrast": float(luma.std()),
        "saturation": float(np.mean(pixels.max(axis=2) - pixels.min(axis=2))),
        "warmth": float(mean[0] - mean[2]),
        "sharpness": float(edges.mean() * max(image.shape[:2]) / 64),
        "off_centre": _off_centre(edges),
    }


def _edges(luma: Floats) -> Floats:
    """Gradient magnitude of the luma between pixels, [H, W] -> [H-1, W-1]; mirrored pictures give mirrored edges."""
    down = luma[1:] - luma[:-1]
    across = luma[:, 1:] - luma[:, :-1]
    return np.hypot((down[:, 1:] + down[:, :-1]) / 2, (across[1:] + across[:-1]) / 2)


def _off_centre(edges: Floats) -> float:
    total = float(edges.sum(dtype=np.float64))
    if total < 1e-3:  # a flat picture has no middle of its edges
        return 0.0
    height, width = edges.shape
    row = np.arange(height) - (height - 1) / 2
    column = np.arange(width) - (width - 1) / 2
    y, x = edges.sum(axis=1, dtype=np.float64) @ row / total, edges.sum(axis=0, dtype=np.float64) @ column / total
    return float(np.hypot(y, x) / (np.hypot(height + 1, width + 1) / 2))
