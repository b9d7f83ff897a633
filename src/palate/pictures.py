"""Encoded pictures as people see them: the one decoder of import, page, judges, training and reports."""

import io
import warnings
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile

from palate.errors import PalateError

FORMATS = (
    "PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "TGA", "QOI", "ICO", "PCX", "SGI",
)  # fmt: skip
"""The kinds of files that are read. Others of Pillow's start programs (EPS) or hold no picture of their own (WMF)."""
MOST_PIXELS = 90_000_000
GROUND = (255, 255, 255)
"""What shows through where a picture is transparent: white, as on the labelling page."""
ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)  # orientations that swap width and height
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
BROWSERS_READ = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF; photometric 0: white is zero
warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged notes and many pixels: told in errors where they matter
_SRGB = ImageCms.createProfile("sRGB")
_COLOUR_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab "}


@dataclass(frozen=True)
class Decoded:
    """An RGB picture, upright, and whether its file holds further frames or pages, which are not decoded."""

    picture: Image.Image
    animated: bool


def decode(data: bytes, name: str = "the image") -> Decoded:
    """The picture in the encoded bytes `data`, as 8-bit sRGB and as people see it.

    It is turned by its EXIF note. A colour profile (ICC) is followed to sRGB; one that is broken or of another colour
    space is not, as in browsers. Transparent parts show GROUND, by an alpha channel, a palette or a transparent colour.
    Greys of 16 bits keep their upper 8 bits (rounded), CMYK and LAB are converted. Of animations and files of several
    pages it is the first.

    Raises PalateError, which calls the picture `name`, for what is no picture, for a part of one, for one with more
    pixels than is safe, and for modes without a defined white (32-bit numbers).
    """
    try:
        with _open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise PalateError(f"{name} is a picture of more pixels than is safe to decode")
            orientation, animated = _orientation(picture), _animated(picture)
            picture.load()
            return Decoded(_upright(_rgb(picture, data, name), orientation), animated)
    except PalateError:
        raise
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error on foreign bytes
        raise PalateError(f"{name} is {_what_it_is(data, error)}") from error


def size(file: BinaryIO) -> tuple[int, int] | None:
    """(width, height) in pixels after the turn by EXIF, from the header alone; None where there is no picture."""
    try:
        with _open(file) as picture:
            width, height = picture.size
            return (height, width) if _orientation(picture) in TURNED else (width, height)
    except Exception:  # as in decode
        return None


def media_type(data: bytes) -> str | None:
    """The media type of `data` where a browser shows these very bytes as `decode` does, None otherwise.

    None are transparent pictures (a page has a ground of its own), animations, modes that browsers treat differently,
    and turns that are noted elsewhere than in a JPEG.
    """
    try:
        with _open(io.BytesIO(data)) as picture:
            plain = picture.mode in ("RGB", "L", "P") and not picture.has_transparency_data
            turned = picture.format != "JPEG" and _orientation(picture) != 1
            alike = plain and not turned and not _animated(picture)
            return BROWSERS_READ.get(str(picture.format)) if alike else None
    except Exception:  # as in decode
        return None


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    Image.init()  # with a list of formats Pillow loads only the plug-ins of the most common ones by itself
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def _orientation(picture: ImageFile.ImageFile) -> int:
    """The EXIF orientation, 1 where there is none that can be read; XMP is not asked, as browsers do not."""
    for name in ("xmp", "XML:com.adobe.xmp"):
        picture.info.pop(name, None)
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged note is none
        return 1
    return value if value in range(2, 9) else 1


def _animated(picture: ImageFile.ImageFile) -> bool:
    try:
        several = bool(getattr(picture, "is_animated", False))
        return several and picture.format != "MPO"  # which is a photo with its previews
    except Exception:  # what follows the first frame is damaged, and not needed
        return True


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def _rgb(picture: Image.Image, data: bytes, name: str) -> Image.Image:
    """`picture` of any mode as RGB on GROUND."""
    profile = picture.info.get("icc_profile")
    if picture.mode in ("La", "RGBa"):
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    alpha = _alpha(picture, data, name)
    flat = _to_srgb(_colours(picture, name), profile)
    if alpha is None:
        return flat
    ground = Image.new("RGB", picture.size, GROUND)
    ground.paste(flat, mask=alpha)
    return ground


def _alpha(picture: Image.Image, data: bytes, name: str) -> Image.Image | None:
    """How opaque each pixel is, mode L; None where all are."""
    if picture.mode in ("LA", "PA", "RGBA"):
        return picture.getchannel("A")
    if picture.mode == "P" and picture.has_transparency_data:
        return picture.convert("RGBA").getchannel("A")
    key = picture.info.get("transparency")
    if key is None or picture.mode not in ("1", "L", "RGB", "I", *SIXTEEN_BIT):
        return None
    depth = data[24] if picture.format == "PNG" else 8  # of a PNG; Pillow spreads greys of 1, 2 and 4 bits to 0..255
    if picture.mode == "RGB" and depth == 16:
        raise PalateError(f"{name} is a 16-bit picture with a transparent colour. Save it with an alpha channel.")
    if picture.mode in ("1", "L") and depth < 8:
        key = key * 255 // (2**depth - 1)
    pixels = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    same = (pixels == np.asarray(key)).reshape(*pixels.shape[:2], -1).all(axis=-1)
    return Image.fromarray(np.where(same, 0, 255).astype(np.uint8))


def _colours(picture: Image.Image, name: str) -> Image.Image:
    """The colours of `picture` without its alpha, in a mode that a profile can be for: L, RGB, CMYK or LAB."""
    mode = picture.mode
    if mode in ("L", "RGB", "CMYK", "LAB"):
        return picture
    if mode in ("1", "LA"):
        return picture.convert("L")
    if mode in ("P", "PA"):
        return picture.convert("RGBA").convert("RGB")  # through RGBA, which keeps the colours of transparent entries
    if mode in ("RGBA", "RGBX", "YCbCr", "HSV"):
        return picture.convert("RGB")
    if mode in SIXTEEN_BIT or (mode == "I" and picture.format in ("PNG", "PPM")):
        values, tags = np.asarray(picture).astype(np.float64), getattr(picture, "tag_v2", {})
        white = 2 ** tags.get(_BITS, (16,))[0] - 1
        grey = np.rint(values.clip(0, white) * (255 / white)).astype(np.uint8)
        return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey)
    raise PalateError(
        f"{name} is a picture of mode {mode}, whose numbers have no defined white. Save it with 8 or 16 bits a channel."
    )


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """`picture` (L, RGB, CMYK, LAB) as RGB in sRGB, by its profile where that is one for these colours."""
    if picture.mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), _SRGB, "LAB", "RGB")
        return _converted(ImageCms.applyTransform(picture, transform))
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if source.profile.xcolor_space == _COLOUR_SPACES[picture.mode]:
                return _converted(ImageCms.profileToProfile(picture, source, _SRGB, outputMode="RGB"))
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a broken profile is none
    return picture.convert("RGB")


def _what_it_is(data: bytes, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return "a picture of more pixels than is safe to decode"
    if isinstance(error, OSError) and "truncated" in str(error):
        return f"a picture that is cut off after {len(data):,} bytes"
    head = data[:5]
    readable = head.isascii() and head.decode("ascii").isprintable()
    begins = f"starts with '{head.decode('ascii') if readable else head.hex(' ')}'" if head else "it is empty"
    return f"not a picture ({begins})"


def _converted(picture: Image.Image | None) -> Image.Image:
    """What ImageCms returns where it does not work in place: a picture."""
    assert picture is not None
    return picture
