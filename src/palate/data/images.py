"""Images as stored in the tables, encoded bytes or a path: decode, read the size, encode."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from palate.errors import PalateError
from palate.pictures import decode, size
from palate.reading import open_plain, read_plain


def image_bytes(image: Mapping[str, Any] | None, root: str | Path) -> bytes:
    """The encoded bytes of `image`; a relative path is taken from the dataset folder `root`.

    Raises PalateError when the file is missing or unreadable, when the image holds neither bytes nor a path, or when it
    is None: image 1 of a single image, or an image of a pair without pictures.
    """
    if image is None:
        raise PalateError("nothing is stored here: there is no second picture of a single image, and none of a pair"
                          " that was imported without pictures.")  # fmt: skip
    if image.get("bytes"):
        return bytes(image["bytes"])
    if not image.get("path"):
        raise PalateError("an image with neither bytes nor a path. Import the pair again.")
    path = Path(root, image["path"])  # an absolute path stays unchanged
    try:
        return read_plain(path)
    except PalateError as error:
        told = str(error).removeprefix(f"{path}: ").removesuffix(".")
        raise PalateError(f"{path}: the picture cannot be read ({told}). Put the file there.") from error


def bytes_of_pair(pair: Mapping[str, Any]) -> int:
    """How many bytes of encoded images a row of the pairs holds; images stored by path count as 0."""
    return sum(len(image["bytes"] or b"") for image in (pair["image_0"], pair["image_1"]) if image)


def decode_image(image: Mapping[str, Any] | None, root: str | Path, name: str | None = None) -> Image.Image:
    """`image` ({"bytes", "path"}) as an RGB picture, as people see it (`palate.pictures.decode`: turned, in sRGB, on
    white); a relative path is taken from `root`.

    Raises PalateError as `image_bytes` does, and for data that is no picture or only a part of one, with its first
    bytes; the message calls the image `name`, or its path.
    """
    data = image_bytes(image, root)
    by_path = image is not None and image.get("path") and not image.get("bytes")
    return decode(data, name or (str(Path(root, image["path"])) if image and by_path else "the image")).picture


def image_size(image: Mapping[str, Any], root: str | Path) -> tuple[int, int] | None:
    """(width, height) in pixels as the picture is seen, from the file's header alone; None where there is no readable
    picture."""
    try:
        with io.BytesIO(image["bytes"]) if image.get("bytes") else open_plain(Path(root, image["path"])) as file:
            return size(file)
    except (PalateError, TypeError, KeyError):
        return None


def encode_image(picture: Image.Image, format: str = "PNG") -> dict[str, Any]:
    """`picture` in the form of the tables: {"bytes": the encoded file, "path": None}."""
    buffer = io.BytesIO()
    picture.save(buffer, format=format)
    return {"bytes": buffer.getvalue(), "path": None}
