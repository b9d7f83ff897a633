import numpy as np
import pytest

from palate.errors import PalateError
from palate.judges.covariates import picture_statistics


def disc(row=32, column=32, radius=10, background=200, colour=(255, 0, 0), size=64):
    y, x = np.mgrid[:size, :size]
    picture = np.full((size, size, 3), background, np.uint8)
    picture[(y - row) ** 2 + (x - column) ** 2 < radius**2] = colour
    return picture


def test_flat_pictures_have_known_statistics():
    red = picture_statistics(np.full((16, 24, 3), (255, 0, 0), np.uint8))
    expected = {"brightness": 0.299, "contrast": 0, "saturation": 1, "warmth": 1, "sharpness": 0, "off_centre": 0}
    assert red == pytest.approx(expected, abs=1e-6)
    grey = picture_statistics(np.full((16, 24, 3), 51, np.uint8))
    assert grey == pytest.approx(expected | {"brightness": 0.2, "saturation": 0, "warmth": 0}, abs=1e-6)


def test_half_black_half_white():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 255
    seen = picture_statistics(picture)
    assert seen["brightness"] == pytest.approx(0.5, abs=1e-6) and seen["contrast"] == pytest.approx(0.5, abs=1e-6)
    assert seen["sharpness"] == pytest.approx(1 / 63, rel=1e-4)
    assert seen["off_centre"] == pytest.approx(0, abs=1e-6)


def test_each_statistic_moves_with_what_it_names():
    base = picture_statistics(disc())
    assert picture_statistics(disc(background=120))["brightness"] < base["brightness"] - 0.2
    assert picture_statistics(disc(colour=(200, 150, 150)))["saturation"] < base["saturation"] - 0.05
    assert picture_statistics(disc(colour=(0, 0, 255)))["warmth"] < base["warmth"] - 0.1
    assert picture_statistics(disc(colour=(210, 190, 190)))["contrast"] < base["contrast"] / 3
    blurred = disc().astype(float)
    for _ in range(8):
        blurred = (blurred + np.roll(blurred, 1, 0) + np.roll(blurred, 1, 1) + np.roll(blurred, (1, 1), (0, 1))) / 4
    jagged = disc()
    jagged[::2] //= 2
    sharpness = [picture_statistics(p)["sharpness"] for p in (jagged, disc(), blurred.astype(np.uint8))]
    assert sharpness[0] > 2 * sharpness[1] > 2 * sharpness[2] > 0
    assert base["off_centre"] < 0.02
    moved = picture_statistics(disc(row=32, column=52))["off_centre"]
    assert moved == pytest.approx(20 / np.hypot(32, 32), abs=0.02)


def test_mirrors_and_size_do_not_matter():
    picture = disc(row=20, column=40, background=90)
    base = picture_statistics(picture)
    assert picture_statistics(np.ascontiguousarray(picture[:, ::-1])) == pytest.approx(base, rel=1e-5, abs=1e-6)
    assert picture_statistics(np.ascontiguousarray(picture[::-1])) == pytest.approx(base, rel=1e-5, abs=1e-6)
    assert picture_statistics(picture.repeat(2, 0).repeat(2, 1)) == pytest.approx(base, rel=0.1, abs=0.01)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))])
def test_other_arrays_get_one_clear_line(image):
    with pytest.raises(PalateError, match="8-bit RGB"):
        picture_statistics(image)
