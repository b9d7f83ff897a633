"""Images as the tables hold them, encoded bytes or a path: decode, read the size, encode."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from palate.errors import PalateError


def image_bytes(image: Mapping[str, Any] | None, root: str | Path) -> bytes:
    """The encoded bytes of `image`; a relative path is taken from the dataset folder `root`.

    Raises PalateError when the file is missing or unreadable, when the image holds neither bytes nor a path, or when it
    is None: image 1 of a single image.
    """
    if image is None:
        raise PalateError("there is no second picture: this is a single image, and only image_0 can be read.")
    if image.get("bytes"):
        return bytes(image["bytes"])
    if not image.get("path"):
        raise PalateError("an image with neither bytes nor a path. Import the pair again.")
    path = Path(root, image["path"])  # an absolute path stays what it is
    try:
        return path.read_bytes()
    except OSError as error:
        raise PalateError(f"{path}: the picture cannot be read ({error.strerror}). Put the file there.") from error


def bytes_of_pair(pair: Mapping[str, Any]) -> int:
    """How many bytes of encoded images a row of the pairs holds; images that are kept by path count as none."""
    return sum(len(image["bytes"] or b"") for image in (pair["image_0"], pair["image_1"]) if image)


def decode_image(image: Mapping[str, Any] | None, root: str | Path, name: str | None = None) -> Image.Image:
    """`image` ({"bytes", "path"}) as an RGB picture, upright by its EXIF note; a relative path is taken from `root`.

    Raises PalateError as `image_bytes` does, and, calling the image `name` (or its path), with the first bytes of what
    is there when that is not a picture, or only a part of one.
    """
    data = image_bytes(image, root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                return ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error on foreign bytes
        by_path = image and image.get("path") and not image.get("bytes")
        name = name or (str(Path(root, image["path"])) if image and by_path else "the image")
        raise PalateError(f"{name} is {_what_it_is(data, error)}") from error


def image_size(image: Mapping[str, Any], root: str | Path) -> tuple[int, int] | None:
    """(width, height) in pixels, from the file's header alone; None where there is no readable picture."""
    try:
        source = io.BytesIO(image["bytes"]) if image.get("bytes") else Path(root, image["path"])
        with Image.open(source) as picture:
            return picture.size
    except Exception:  # as in decode_image
        return None


def encode_image(picture: Image.Image, format: str = "PNG") -> dict[str, Any]:
    """`picture` as the tables hold it: {"bytes": the encoded file, "path": None}."""
    buffer = io.BytesIO()
    picture.save(buffer, format=format)
    return {"bytes": buffer.getvalue(), "path": None}


def _what_it_is(data: bytes, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return "a picture of more pixels than is safe to decode"
    if isinstance(error, OSError) and "truncated" in str(error):
        return f"a picture that is cut off after {len(data):,} bytes"
    head = data[:5]
    readable = head.isascii() and head.decode("ascii").isprintable()
    return f"not a picture (starts with '{head.decode('ascii') if readable else head.hex(' ')}')"
