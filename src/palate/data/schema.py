"""The two tables of a dataset, pairs and votes, and what a row of each may hold."""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from palate.errors import PalateError, did_you_mean
from palate.reading import quoted

SCHEMA_VERSION = 1
SOURCES = ("human", "judge")
CHOICES = ("0", "1", "tie", "skip")
ORDERS = ("01", "10")
IMAGE_COLUMNS = ("image_0", "image_1")
OVERALL = "overall"  # the question of votes that name none
LONGEST_QUESTION = 80  # characters of a question's name

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as the datasets library stores images

_PAIR_FIELDS = [
    pa.field("pair_id", pa.string(), nullable=False),
    pa.field("prompt", pa.string(), nullable=False),
    pa.field("image_0", IMAGE),  # encoded bytes, or a path (absolute, or relative to the dataset folder)
    pa.field("image_1", IMAGE),  # null: a single image, image_0, on which choice 0 means liked and 1 disliked
    pa.field("group_id", pa.string()),  # the ranked list a pair comes from
    pa.field("generator_0", pa.string()),  # JSON: model, sampler, steps, guidance, seed
    pa.field("generator_1", pa.string()),
    pa.field("propensity", pa.float64()),  # in (0, 1]
]
_VOTE_FIELDS = [
    pa.field("vote_id", pa.string(), nullable=False),
    pa.field("pair_id", pa.string(), nullable=False),
    pa.field("annotator_id", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),  # human | judge
    pa.field("choice", pa.string(), nullable=False),  # 0 | 1 | tie | skip
    pa.field("probability", pa.float64()),  # that image 0 is preferred; of a single image, that it is liked
    pa.field("score_0", pa.float64()),  # a judge's raw score of image 0
    pa.field("score_1", pa.float64()),
    pa.field("order_shown", pa.string()),  # 01: image 0 was shown first (left); 10: image 1 was
    pa.field("seconds", pa.float64()),
    pa.field("instruction_version", pa.string()),
    pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    pa.field("question", pa.string()),  # what it answers; null: overall
]


DTYPES = {pa.string(): "string", pa.float64(): "float64", pa.timestamp("us", tz="UTC"): "timestamp[us, tz=UTC]"}


def _readable_by_datasets(fields: list[pa.Field]) -> pa.Schema:
    """The fields with the metadata by which `datasets.load_dataset("parquet", ...)` decodes the image columns."""
    features = {
        f.name: {"_type": "Image"} if f.type == IMAGE else {"dtype": DTYPES[f.type], "_type": "Value"} for f in fields
    }
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


PAIRS = _readable_by_datasets(_PAIR_FIELDS)
VOTES = _readable_by_datasets(_VOTE_FIELDS)
OVERALL_VOTES = _readable_by_datasets(_VOTE_FIELDS[:-1])  # a shard of votes that name no question, as it ever was


def content_id(*parts: str | bytes | None) -> str:
    """A 32-digit name for `parts` that is the same on every machine and in every run (BLAKE2b, 128 bits)."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = b"" if part is None else part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)  # lengths, so that ("ab", "c") is not ("a", "bc")
    return digest.hexdigest()


def pair_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`row` in the form of PAIRS; raises PalateError, naming `where`, when something is missing or out of range.

    An image is {"bytes", "path"}, or the encoded bytes alone; where bytes are given the path is dropped, so that a path
    always means a picture outside the table. Without image_1 (or with None) the row is a single image; without
    both it is a pair whose pictures are not known. A generator is JSON or a dict. Propensity is in (0, 1] or None.
    """
    _known_fields(row, PAIRS, where)
    _check_texts(row, PAIRS, where)
    pair_id, prompt = row.get("pair_id"), row.get("prompt")
    if not pair_id or not isinstance(pair_id, str):
        raise PalateError(f"{where}: a pair without pair_id. Give every pair a text that no other pair has.")
    if not isinstance(prompt, str) or not prompt.strip():
        raise PalateError(f"{where}: pair '{pair_id}' has no prompt. Every pair needs the prompt of its two images.")
    propensity = _number(row, "propensity", where)
    if propensity is not None and not 0 < propensity <= 1:
        raise PalateError(f"{where}: propensity {propensity} of pair '{pair_id}' is outside (0, 1].")
    out = {name: row.get(name) for name in PAIRS.names} | {"propensity": propensity}
    unseen = row.get("image_0") is None and row.get("image_1") is None
    if not unseen and row.get("image_1") is None and row.get("generator_1") is not None:
        raise PalateError(f"{where}: pair '{pair_id}' has a generator_1 and no image_1. Give that image, or neither.")
    for i in ("0", "1"):
        if not unseen and (i == "0" or row.get("image_1") is not None):
            out[f"image_{i}"] = _image(row.get(f"image_{i}"), f"{where}: pair '{pair_id}'", f"image_{i}")
        if isinstance(out[f"generator_{i}"], Mapping):
            out[f"generator_{i}"] = json.dumps(out[f"generator_{i}"], sort_keys=True)
    return out


def vote_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`row` in the form of VOTES with vote_id and created_at filled; raises PalateError, naming `where`.

    A vote without vote_id gets a hash of who voted, on which pair and question, in which order, under which
    instructions, and when (if `created_at` is given): so a vote that is given twice keeps its id.
    """
    _known_fields(row, VOTES, where)
    _check_texts(row, VOTES, where)
    out = {name: row.get(name) for name in VOTES.names}
    for name in ("pair_id", "annotator_id"):
        if not out[name] or not isinstance(out[name], str):
            raise PalateError(f"{where}: a vote without {name}. Every vote says who voted, and on which pair.")
    for name, allowed in (("source", SOURCES), ("choice", CHOICES), ("order_shown", ORDERS)):
        if out[name] not in allowed and not (name == "order_shown" and out[name] is None):
            given = f"{name} {quoted(out[name])} of a vote on pair {quoted(out['pair_id'])}"
            raise PalateError(f"{where}: {given} is none of {', '.join(allowed)}.")
    for name in ("probability", "score_0", "score_1", "seconds"):
        out[name] = _number(row, name, where)
    if out["probability"] is not None and not 0 <= out["probability"] <= 1:
        given = f"probability {out['probability']} of a vote on pair '{out['pair_id']}'"
        raise PalateError(f"{where}: {given} is outside [0, 1].")
    out["created_at"] = _moment(row.get("created_at"), where)
    out["question"] = _question(out["question"], where)
    who = [out[name] for name in ("pair_id", "source", "annotator_id", "order_shown", "instruction_version")]
    when = out["created_at"].isoformat() if out["created_at"] else None
    asked = [] if out["question"] is None else ["question", out["question"]]  # ids of overall votes are as ever
    out["vote_id"] = out["vote_id"] or content_id("vote", *who, when, *asked)
    out["created_at"] = out["created_at"] or datetime.now(UTC)
    return out


def _question(name: str | None, where: str) -> str | None:
    """A question's name as the table has it: None for the overall one."""
    if name is None or name.strip() == OVERALL:
        return None
    name = name.strip()
    if not name or len(name) > LONGEST_QUESTION or not name.isprintable():
        told = f"question {quoted(name)} is no name: give at most {LONGEST_QUESTION} characters on one line"
        raise PalateError(f"{where}: {told}, or leave it out for the overall question.")
    return name


def _known_fields(row: Mapping[str, Any], schema: pa.Schema, where: str) -> None:
    for name in row:
        if name not in schema.names:
            hint = did_you_mean(name, schema.names, f"known fields: {', '.join(schema.names)}.")
            raise PalateError(f"{where}: unknown field {name!r}{hint}")


def _check_texts(row: Mapping[str, Any], schema: pa.Schema, where: str) -> None:
    """Check that every text of the row can be stored: a string without lone surrogates. Generators may be dicts."""
    for name, value in row.items():
        if schema.field(name).type != pa.string() or value is None:
            continue
        if isinstance(value, Mapping) and name.startswith("generator_"):
            continue
        if not isinstance(value, str):
            raise PalateError(f"{where}: {name} is {quoted(value)}, which is no text.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise PalateError(f"{where}: {name} {quoted(value)} holds half a character (a lone surrogate).") from error


def _image(image: Any, where: str, name: str) -> dict[str, Any]:
    if isinstance(image, bytes):
        image = {"bytes": image}
    if not isinstance(image, Mapping) or not (image.get("bytes") or image.get("path")):
        raise PalateError(f"{where}: {name} is missing. Give its encoded bytes or a path.")
    data = image.get("bytes")
    return {"bytes": data, "path": None} if data else {"bytes": None, "path": str(image["path"])}


def _number(row: Mapping[str, Any], name: str, where: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise PalateError(
            f"{where}: {name} {quoted(value)} is not a finite number. Leave it out where it is not known."
        )
    return number


def _moment(value: Any, where: str) -> datetime | None:
    if value is None:
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError) as error:
        told = f"created_at {quoted(value)} is not a time of the years 1 to 9999"
        raise PalateError(f"{where}: {told}; write it as 2026-01-31T12:00:00Z.") from error
