"""Make the file of emoji pictures from npm packages: `python -m palate.demos.emoji_collect`.

The packages, with the artists and their licences (the file NOTICE names them, too):

    npm install emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 fluentui-emoji@1.3.0 emojilib@4.0.3

Noto Emoji by Google (Apache-2.0), Twemoji by Twitter and others (CC BY 4.0), Fluent Emoji by Microsoft (MIT), flat
and with gradients; the names are Unicode's, as emojilib has them. `pip install resvg-py` renders the last two, which
are SVG.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from palate.errors import PalateError
from palate.files import atomic_path
from palate.world.emoji_pictures import ARTISTS, NAMES, SIZE

BITMAPS = {"noto": "emoji-datasource-google/img/google/64", "twemoji": "emoji-datasource-twitter/img/twitter/64"}
DRAWINGS = {"fluent-flat": "fluentui-emoji/icons/flat", "fluent-3d": "fluentui-emoji/icons/modern"}
LIST, KEYWORDS = "emoji-datasource-google/emoji.json", "emojilib/dist/emoji-en-US.json"
OTHER_NAMES = {"direct-hit": "bullseye"}  # file name of emojilib's name -> of Fluent's


@dataclass
class Options:
    """Make the file of emoji pictures."""

    packages: Path
    """The folder node_modules with the four packages."""
    out: Path
    """The file to write, .npz."""


def main(options: Options) -> None:
    for place in (LIST, KEYWORDS, *BITMAPS.values(), *DRAWINGS.values()):
        if not (options.packages / place).exists():
            raise PalateError(f"{options.packages}: has no {place}. {__doc__.split(chr(10) * 2)[2].strip()}")
    rows = list(collect(options.packages))
    if missing := sorted(set(NAMES) - {name for name, _ in rows}):
        raise PalateError(
            f"{options.packages}: {len(missing)} of the world's names are missing, {missing[0]!r} for one."
        )
    arrays = {artist: np.stack([images[k] for _, images in rows]) for k, artist in enumerate(ARTISTS)}
    arrays["names"] = np.array([name for name, _ in rows])
    with atomic_path(options.out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array)
    print(f"{options.out}: {len(rows):,} names by {len(ARTISTS)} artists, the world's {len(NAMES)} among them")


def collect(packages: Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Names that all artists drew, with their pictures [SIZE, SIZE, 3] in the order of ARTISTS."""
    keywords = json.loads((packages / KEYWORDS).read_text(encoding="utf-8"))
    spelt = {file_name(name): name for name in NAMES}
    for row in json.loads((packages / LIST).read_text(encoding="utf-8")):
        character = "".join(chr(int(code, 16)) for code in row["unified"].split("-"))
        if character not in keywords:
            continue
        name = keywords[character][0].replace("_", " ")
        stem = OTHER_NAMES.get(file_name(name), file_name(name))
        drawings = [packages / folder / f"{stem}.svg" for folder in DRAWINGS.values()]
        bitmaps = [packages / folder / row["image"] for folder in BITMAPS.values()]
        if all(path.exists() for path in (*bitmaps, *drawings)):
            images = [on_white(path.read_bytes()) for path in bitmaps] + [rendered(path) for path in drawings]
            yield spelt.get(stem, name), images


def file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def rendered(path: Path) -> np.ndarray:
    """An SVG file at SIZE pixels, on white."""
    try:
        import resvg_py
    except ImportError as error:
        raise PalateError("Fluent Emoji are SVG files, which resvg-py renders: pip install resvg-py") from error
    return on_white(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=SIZE, height=SIZE, skip_system_fonts=True)))


def on_white(png: bytes) -> np.ndarray:
    """A PNG as uint8 [SIZE, SIZE, 3], what is transparent as white."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB").resize((SIZE, SIZE)))


if __name__ == "__main__":
    main(tyro.cli(Options))
