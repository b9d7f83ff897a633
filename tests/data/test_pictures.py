"""The one decoder: pictures as people see them, with right values in every mode, or refused by name."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from palate.data.images import decode_image, image_size
from palate.data.samples import Samples
from palate.errors import PalateError
from palate.pages import picture_uri
from palate.pictures import decode, media_type
from palate.web.pictures import _for_browsers

WHITE, RED = (255, 255, 255), (255, 0, 0)


def saved(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data).picture)


def png(bits: int, colour: int, rows: list[bytes], width: int, extra: bytes = b"") -> bytes:
    """A PNG as the standard writes it, of a depth that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def cut_out() -> Image.Image:
    """An opaque red square in transparent surroundings whose hidden colours are noise."""
    hidden = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    hidden[..., 3] = 0
    hidden[2:6, 2:6] = (*RED, 255)
    return Image.fromarray(hidden)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "TGA"])
def test_hidden_colours_stay_hidden(format):
    found = pixels(saved(cut_out(), format, **({"lossless": True, "exact": True} if format == "WEBP" else {})))
    expected = np.full((8, 8, 3), 255)
    expected[2:6, 2:6] = RED
    assert np.array_equal(found, expected)


def test_half_transparent_colours_are_mixed_with_white():
    found = pixels(saved(Image.new("RGBA", (1, 1), (255, 0, 0, 51))))[0, 0]
    assert found.tolist() == [255, 204, 204]
    assert pixels(saved(Image.new("LA", (1, 1), (0, 51))))[0, 0].tolist() == [204, 204, 204]


def test_transparent_entries_of_palettes_and_transparent_colours_show_the_ground():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    assert pixels(saved(palette, transparency=1)).tolist() == [[list(RED), list(WHITE)]]
    assert pixels(saved(palette, transparency=b"\xff\x33")).tolist() == [[list(RED), [204, 204, 255]]]
    assert pixels(saved(palette, "GIF", transparency=1)).tolist() == [[list(RED), list(WHITE)]]
    assert pixels(saved(palette)).tolist() == [[list(RED), [0, 0, 255]]]

    coloured = Image.new("RGB", (2, 1), RED)
    coloured.putpixel((1, 0), (1, 2, 3))
    assert pixels(saved(coloured, transparency=(1, 2, 3))).tolist() == [[list(RED), list(WHITE)]]
    grey = Image.new("L", (2, 1), 9)
    grey.putpixel((1, 0), 70)
    assert pixels(saved(grey, transparency=70)).tolist() == [[[9] * 3, [255] * 3]]


def test_greys_of_few_bits_are_spread_and_their_transparent_value_is_one_of_theirs():
    two_bits = png(2, 0, [bytes([0b00_01_10_11])], 4)
    assert pixels(two_bits)[0, :, 0].tolist() == [0, 85, 170, 255]
    keyed = png(2, 0, [bytes([0b00_01_10_11])], 4, chunk(b"tRNS", struct.pack(">H", 1)))
    assert pixels(keyed)[0, :, 0].tolist() == [0, 255, 170, 255]
    one_bit = png(1, 0, [bytes([0b10_000000])], 2, chunk(b"tRNS", struct.pack(">H", 0)))
    assert pixels(one_bit)[0, :, 0].tolist() == [255, 255]


def test_greys_of_sixteen_bits_keep_their_upper_eight():
    values = [0, 128, 129, 257, 32768, 65535]
    grey = png(16, 0, [struct.pack(">6H", *values)], 6)
    assert pixels(grey)[0].tolist() == [[round(v / 257)] * 3 for v in values]
    keyed = png(16, 0, [struct.pack(">6H", *values)], 6, chunk(b"tRNS", struct.pack(">H", 129)))
    assert pixels(keyed)[0, :, 0].tolist() == [0, 0, 255, 1, 128, 255]
    assert pixels(saved(Image.fromarray(np.array([values], np.uint16)), "TIFF"))[0, :, 0].tolist() == [
        0, 0, 1, 1, 128, 255,
    ]  # fmt: skip
    inverted = saved(Image.fromarray(np.array([values], np.uint16)), "TIFF", tiffinfo={262: 0})
    assert pixels(inverted)[0, :, 0].tolist() == [255, 255, 254, 254, 127, 0]
    assert pixels(b"P5 2 1 65535\n" + struct.pack(">2H", 65535, 257))[0, :, 0].tolist() == [255, 1]


def test_colours_of_sixteen_bits_are_within_one_step_and_their_transparent_colour_is_refused():
    row = struct.pack(">6H", 65535, 0, 32768, 257, 514, 65021)
    assert np.abs(pixels(png(16, 2, [row], 2)).astype(int) - [[[255, 0, 128], [1, 2, 253]]]).max() <= 1
    with pytest.raises(PalateError, match="16-bit picture with a transparent colour"):
        decode(png(16, 2, [row], 2, chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_white_are_refused_by_name(mode):
    with pytest.raises(
        PalateError, match=f"a picture is a picture of mode {mode}, whose numbers have no defined white"
    ):
        decode(saved(Image.new(mode, (2, 2), 7), "TIFF"), "a picture")


def test_cmyk_and_black_and_white():
    assert pixels(saved(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF"))[0, 0].tolist() == list(RED)
    assert pixels(saved(Image.new("1", (1, 1), 1)))[0, 0].tolist() == list(WHITE)


def test_lab_is_converted_by_its_definition():
    grey = Image.new("LAB", (1, 1), (136, 128, 128))  # L* 53.4, no colour: middle grey
    assert np.abs(pixels(saved(grey, "TIFF")).astype(int) - 128).max() <= 2


def swapped_profile() -> bytes:
    """sRGB with red and green exchanged: a profile whose effect can be seen without doubt."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    tags = {bytes(data[132 + 12 * i : 136 + 12 * i]): 136 + 12 * i for i in range(count)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    data[red : red + 8], data[green : green + 8] = data[green : green + 8], data[red : red + 8]
    return bytes(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_colour_profile_is_followed(format):
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    data = saved(Image.new("RGB", (16, 16), RED), format, icc_profile=swapped_profile(), **options)
    assert np.abs(pixels(data).astype(int) - [0, 255, 0]).max() <= 4
    with_alpha = saved(cut_out(), "PNG", icc_profile=swapped_profile())
    found = pixels(with_alpha).astype(int)
    assert np.abs(found[3, 3] - [0, 255, 0]).max() <= 2 and found[0, 0].tolist() == list(WHITE)


# Named, because a profile carries the second of its making: two processes would collect two names.
@pytest.mark.parametrize("profile", [b"no profile at all", swapped_profile()[:200]], ids=["no profile", "cut"])
def test_a_broken_profile_and_one_of_other_colours_change_nothing(profile):
    assert pixels(saved(Image.new("RGB", (1, 1), RED), icc_profile=profile))[0, 0].tolist() == list(RED)
    assert pixels(saved(Image.new("L", (1, 1), 90), icc_profile=swapped_profile()))[0, 0].tolist() == [90] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_and_its_size_is_counted_after_the_turn(orientation):
    upright = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that stores `upright` under that orientation
    stored = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(stored, "PNG", exif=exif)
    assert np.array_equal(pixels(data), np.asarray(upright))
    assert image_size({"bytes": data}, ".") == (3, 2)


def test_a_damaged_note_of_orientation_turns_nothing():
    data = saved(Image.new("RGB", (3, 2)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data).picture.size == (3, 2)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(format):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 255, 0))]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:])
    found = decode(data)
    assert found.animated and np.abs(np.asarray(found.picture).astype(int) - RED).max() <= 2
    assert not decode(saved(frames[0], format)).animated


def test_more_pixels_than_are_safe_are_refused_from_the_header():
    with pytest.raises(PalateError, match="more pixels than is safe"):
        decode(png(8, 0, [b"\0"] * 1000, 100_000))


def test_a_file_that_would_start_a_program_is_not_read():
    with pytest.raises(PalateError, match="not a picture"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def test_the_page_the_reports_and_the_samples_show_the_same_picture(tmp_path):
    data = saved(cut_out())
    shown, kind = _for_browsers(data, "a")
    assert kind == "image/png" and Image.open(io.BytesIO(shown)).mode == "RGB"
    assert np.array_equal(pixels(shown), pixels(data))
    (tmp_path / "000000.png").write_bytes(data)
    assert np.array_equal(Samples(tmp_path, ["a"], {}).images()[0], pixels(data))
    import base64

    in_report = base64.b64decode(picture_uri(tmp_path / "000000.png").partition(",")[2])
    assert np.array_equal(pixels(in_report), pixels(data))
    assert np.array_equal(np.asarray(decode_image({"path": "000000.png"}, tmp_path)), pixels(data))


def test_bytes_go_to_the_browser_only_where_it_shows_what_the_decoder_sees():
    plain = Image.new("RGB", (4, 2), RED)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert media_type(saved(plain)) == "image/png" and media_type(saved(plain, "JPEG", exif=exif)) == "image/jpeg"
    assert media_type(saved(plain, "PNG", exif=exif)) is None  # browsers differ in what they turn
    assert media_type(saved(plain, "GIF", save_all=True, append_images=[Image.new("RGB", (4, 2))])) is None
    assert media_type(saved(plain.convert("CMYK"), "JPEG")) is None
    assert media_type(b"<svg onload=alert(1)>") is None


def test_mutated_pictures_are_decoded_or_refused_in_one_line():
    chance = random.Random(0)
    seeds = [saved(cut_out(), f) for f in ("PNG", "WEBP", "TIFF", "TGA")]
    seeds += [saved(Image.new("RGB", (9, 7), RED), f) for f in ("JPEG", "GIF", "BMP", "PPM", "ICO")]
    for _ in range(300):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            found = decode(bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])).picture
            assert found.mode == "RGB"
        except PalateError as error:
            assert "\n" not in str(error) and len(str(error)) < 300
