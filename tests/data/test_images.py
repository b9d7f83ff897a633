import io

import pytest
from PIL import Image

from palate.data.images import decode_image, encode_image, image_size
from palate.errors import PalateError


def test_a_web_page_is_not_a_picture():
    with pytest.raises(PalateError, match="^image_1 is not a picture \\(starts with '<html'\\)$"):
        decode_image({"bytes": b"<html><body>404"}, ".", "image_1")


def test_foreign_bytes_are_shown_in_hex():
    with pytest.raises(PalateError, match="00 ff 00 ff 00"):
        decode_image({"bytes": b"\x00\xff" * 10}, ".")


def test_a_picture_that_is_cut_off_says_so(picture):
    data = picture(0, (64, 64))
    with pytest.raises(PalateError, match="cut off after"):
        decode_image({"bytes": data[: len(data) // 2]}, ".")


def test_a_relative_path_is_taken_from_the_dataset(tmp_path):
    picture = Image.new("RGB", (5, 4), (1, 2, 3))
    picture.save(tmp_path / "a.png")
    found = decode_image({"bytes": None, "path": "a.png"}, tmp_path)
    assert found.getpixel((0, 0)) == (1, 2, 3)
    assert image_size({"bytes": None, "path": "a.png"}, tmp_path) == (5, 4)
    with pytest.raises(PalateError, match="b.png: the picture cannot be read"):
        decode_image({"path": "b.png"}, tmp_path)


def test_any_mode_becomes_rgb_and_upright():
    buffer = io.BytesIO()
    picture = Image.new("L", (6, 2), 7)
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(buffer, "JPEG", exif=exif)
    found = decode_image({"bytes": buffer.getvalue()}, ".")
    assert found.mode == "RGB" and found.size == (2, 6)


def test_encode_then_decode_is_exact():
    picture = Image.effect_noise((9, 7), 80).convert("RGB")
    assert decode_image(encode_image(picture), ".").tobytes() == picture.tobytes()
