import io

import numpy as np
import pytest
from PIL import Image


def encoded(seed: int, size: tuple[int, int] = (12, 8), format: str = "JPEG") -> bytes:
    """A small picture of noise, another for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture
def picture():
    return encoded


@pytest.fixture
def pair():
    def make(name: str, **more) -> dict:
        seed = int.from_bytes(name.encode(), "little") % 2**32
        return {
            "pair_id": name,
            "prompt": f"prompt {name}",
            "image_0": encoded(seed),
            "image_1": encoded(seed + 1),
        } | more

    return make
