"""Mutated inputs to the importers: every one is imported or refused in lines, never with a trace. Seeded and bounded.

`python tests/slow/fuzz_imports.py 2000 7` tries 2,000 inputs from seed 7 and prints what was found.
"""

import io
import json
import os
import random
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from palate.data.dataset import open_dataset
from palate.data.importing import import_pairs, summary_lines
from palate.errors import PalateError
from palate.pictures import decode, media_type, size

ODD = [
    None, True, False, 0, -1, 0.5, 1e308, float("nan"), float("inf"), 10**400, "", " ", "\0", "\ud800", "\x1b[31m",
    "1", "true", "tie", "../a.jpg", "/etc/passwd", "0.jpg", "x" * 100_000, b"\xff", b"", [], {}, [[]], [5], {"path": 5},
    {"bytes": "text"}, {"bytes": None, "path": None}, "9999-12-31T23:59:59.999999+14:00", "0000-00-00", 2**63, -(2**63),
]  # fmt: skip
FIELDS = ["prompt", "caption", "image", "image_0", "image_1", "choice", "label", "label_0", "label_1", "pair_id", "vote_id",
          "annotator_id", "source", "probability", "score_0", "order_shown", "seconds", "created_at", "group_id",
          "generator_0", "propensity", "chosen", "rejected", "completion", "instruction_version"]  # fmt: skip


def picture(seed: int, format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def flipped(data: bytes, chance: random.Random) -> bytes:
    """`data` with a few bytes changed, cut, doubled or put in."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(out) + 1)
        kind = chance.randrange(4)
        if kind == 0 and at < len(out):
            out[at] = chance.randrange(256)
        elif kind == 1:
            del out[at : at + chance.randint(1, 9)]
        elif kind == 2:
            out[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 9)))
        else:
            out[at:at] = out[max(0, at - 20) : at]
    return bytes(out[: chance.choice([len(out)] * 4 + [chance.randrange(len(out) + 1)])])


# --- one mutated source each: (folder, chance) -> (format, source) ---


def lines(folder: Path, chance: random.Random) -> tuple[str, Path]:
    kind = chance.choice(["jsonl", "trl"])
    names = ("image_0", "image_1") if kind == "jsonl" else ("chosen", "rejected")
    rows = []
    for i in range(4):
        row = {"prompt": f"p{i}", names[0]: f"{i}.png", names[1]: f"{i + 1}.png", "choice": 0}
        for name in chance.sample(FIELDS, chance.randint(0, 3)):
            row[name] = chance.choice([value for value in ODD if not _bytes(value)])
        rows.append(json.dumps(row))
    text = "\n".join(rows).encode(chance.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le"]))
    (folder / "a.jsonl").write_bytes(flipped(text, chance) if chance.random() < 0.6 else text)
    return kind, folder / "a.jsonl"


def _bytes(value: object) -> bool:
    return isinstance(value, bytes)


def table(folder: Path, chance: random.Random) -> tuple[str, Path]:
    kind = chance.choice(["pickapic", "trl"])
    if kind == "pickapic":
        row = {"caption": "a", "jpg_0": picture(1), "jpg_1": picture(2), "label_0": 1.0, "label_1": 0.0,
               "has_label": True, "user_id": "u", "image_0_uid": "x", "image_1_uid": "y"}  # fmt: skip
    else:
        row = {"prompt": "a", "chosen": picture(1), "rejected": picture(2)}
    for name in chance.sample(sorted(row), chance.randint(0, 3)):
        row[name] = chance.choice([flipped(picture(1), chance), *ODD])
    columns = {}
    for name, value in row.items():
        try:
            columns[name] = pa.array([value] * 3)
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError):
            columns[name] = pa.nulls(3)
    columns = {name: values for name, values in columns.items() if chance.random() < 0.97}
    file, whole = folder / f"a.{chance.choice(['parquet', 'arrow'])}", pa.table(columns)
    if file.suffix == ".parquet":
        try:
            pq.write_table(whole, file)
        except pa.ArrowException:
            file.write_bytes(b"PAR1")
    else:
        with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, whole.schema) as writer:
            writer.write_table(whole)
    if chance.random() < 0.5:
        file.write_bytes(flipped(file.read_bytes(), chance))
    return kind, file


def ranked(folder: Path, chance: random.Random) -> tuple[str, Path]:
    entries = []
    for i in range(3):
        entry = {"prompt": f"p{i}", "generations": [f"{k}.png" for k in range(3)], "ranking": [1, 2, 3],
                 "raw_annotations": [{"rank": [3, 2, 1], "user_hash": "u"}]}  # fmt: skip
        for name in chance.sample(sorted(entry), chance.randint(0, 2)):
            entry[name] = chance.choice([value for value in ODD if not _bytes(value)])
        entries.append(chance.choice([entry, entry, entry, 5, None]))
    text = json.dumps(entries).encode()
    (folder / "a.json").write_bytes(flipped(text, chance) if chance.random() < 0.5 else text)
    return "rankings", folder / "a.json"


def tree(folder: Path, chance: random.Random) -> tuple[str, Path]:
    root = folder / "my"
    for side in chance.choice([("win", "lose"), ("liked", "disliked")]):
        (root / side).mkdir(parents=True)
        for name in "abc":
            file, seed = root / side / f"{name}.png", zlib.crc32(f"{side}/{name}".encode()) % 1000
            kind = chance.randrange(7)
            if kind == 0:
                os.mkfifo(file)
            elif kind == 1:
                file.symlink_to(chance.choice([file, Path("/dev/zero"), Path("/proc/self/maps"), folder / "0.png"]))
            elif kind == 2:
                file.mkdir()
            else:
                data = picture(seed, chance.choice(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]))
                file.write_bytes(flipped(data, chance) if kind == 3 else b"" if kind == 4 else data)
            text = chance.choice([b"a cat", b"\xef\xbb\xbfa cat", b"it\x92s", b"\xff\xfea\0", b"", b"\0", b"a\ncat"])
            if chance.random() < 0.8:
                (root / side / f"{name}.txt").write_bytes(text)
    if chance.random() < 0.5:
        (root / "captions.jsonl").write_bytes(flipped(b'{"file": "a.png", "caption": "b"}\n' * 3, chance))
    return "folders", root


def check(make: Callable, chance: random.Random) -> str:
    """Import one mutated source; returns what came of it. Raises whatever is no line for a user."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for i in range(6):
            (folder / f"{i}.png").write_bytes(picture(i))
        format, source = make(folder, chance)
        try:
            report = import_pairs(format, [source], folder / "prefs", allow_outside=chance.random() < 0.2)
        except PalateError as error:
            _one_line(str(error), folder)
            return "refused"
        for line in summary_lines(report):
            _one_line(line, folder)
        dataset = open_dataset(folder / "prefs")
        assert dataset.problems() == []
        before = len(dataset)
        again = import_pairs(format, [source], folder / "prefs", allow_outside=True)
        assert again.pairs_known >= before
        return "imported"


def _one_line(text: str, folder: Path) -> None:
    plain = text.replace(str(folder), "")
    assert plain.isprintable() or not any(c < " " for c in plain), repr(plain[:300])
    assert len(plain) < 1500, plain


def check_picture(chance: random.Random) -> str:
    """Decode one mutated picture; returns what came of it."""
    seed = picture(
        chance.randrange(5), chance.choice(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO"])
    )
    data = flipped(seed, chance)
    size(io.BytesIO(data)), media_type(data)
    try:
        found = decode(data).picture
    except PalateError as error:
        assert str(error).isprintable() and len(str(error)) < 300
        return "picture refused"
    assert found.mode == "RGB"
    return "picture decoded"


def fuzz(inputs: int, seed: int) -> dict[str, int]:
    """Try so many inputs, each from a chance of its own; raises with the number of the first that is no line."""
    found: dict[str, int] = {}
    for number in range(inputs):
        chance = random.Random(f"{seed}/{number}")
        make = chance.choice([lines, table, ranked, tree, None, None])
        try:
            what = check_picture(chance) if make is None else check(make, chance)
        except Exception as error:
            raise AssertionError(f"input {number} of seed {seed}: {type(error).__name__}: {error}") from error
        found[what] = found.get(what, 0) + 1
    return found


if __name__ == "__main__":
    print(fuzz(int(sys.argv[1]), int(sys.argv[2])))
