"""What every page that palate writes shares: one style, one set of colours, pictures inside the file."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from palate.errors import PalateError
from palate.pictures import decode
from palate.reading import read_plain

COLOURS = ("#0072b2", "#d55e00", "#008a64", "#a6418a", "#946800", "#5b5fc7")  # colour-blind readers tell them apart
LARGEST = 320  # pixels of the longer side in a page; larger pictures are scaled down, smaller ones kept exactly

Picture = Image.Image | str | Path


def templates(folder: Path) -> Environment:
    """The templates of a folder, and page.css; all texts are escaped, and a name that is not given is an error."""
    return Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def colour(position: int) -> str:
    """The colour of the run, judge or column at this position, as page.css names it."""
    return f"var(--run-{position % len(COLOURS)})"


def picture_uri(picture: Picture) -> str:
    """The picture as a data address: small ones without loss, large ones scaled to LARGEST pixels.

    Raises PalateError for a file that is not a readable picture.
    """
    if isinstance(picture, Image.Image):
        image = picture.convert("RGB")
    else:
        try:
            image = decode(read_plain(picture), str(picture)).picture
        except PalateError as error:
            told = str(error).removeprefix(str(picture)).strip(": .").removeprefix("is ")
            raise PalateError(
                f"{picture}: not a readable picture ({told}). Sample it again or leave it out."
            ) from error
    small = max(image.size) <= LARGEST // 2
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **({"lossless": True, "quality": 80} if small else {"quality": 82}))
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
