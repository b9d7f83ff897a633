"""Samples of two or more models, on the same prompts and noise, as pairs without votes: a contest between the models."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from palate.data.importers.common import ImportReport, Record, Row, build_rows, embedded_image, shuffled_pair
from palate.data.schema import content_id
from palate.errors import PalateError

_OF_THE_MODEL = (
    "model",
    "revision",
    "negative",
    "negative_mix",
    "classifier_scale",
)  # may differ between the sides of a pair
_SHAPES = ("latent_shape", "picture_size")  # samples of older versions do not say them


def read(sources: Sequence[Path], report: ImportReport) -> Iterator[Row]:
    """One pair per picture and two models: runs (their `samples`) or folders of samples.

    Which model's picture is image 0 follows from the contents, so voters cannot learn it. generator_0 and generator_1 say
    model, sampler, steps, guidance, seed and repetition. With three or more models all their pairs are made, and pictures
    of one prompt and noise share a group_id. Raises PalateError for fewer than two folders, and folders that do not share
    prompts and settings.
    """
    folders = [source / "samples" if (source / "config.yaml").is_file() else source for source in sources]
    if len(folders) < 2:
        raise PalateError("samples: a contest needs the samples of two models or more. Name two folders.")
    about = [_about(folder) for folder in folders]
    for folder, one in zip(folders[1:], about[1:], strict=True):
        different = [
            k
            for k, v in about[0]["settings"].items()
            if k not in _OF_THE_MODEL
            and one["settings"].get(k) != v
            and not (k in _SHAPES and k not in one["settings"])
        ]
        if different or one["prompts"] != about[0]["prompts"]:
            raise PalateError(
                f"{folders[0]} and {folder} were not sampled alike (different: {', '.join(different) or 'prompts'}), so "
                "their pictures are no pairs. Sample both with the same prompts and settings."
            )
    prompts = about[0]["prompts"]
    records: Iterator[Record] = (
        (f"picture {i} of {folders[a]} and {folders[b]}", (i + 1) / len(prompts), (i, a, b))
        for i in range(len(prompts))
        for a, b in combinations(range(len(folders)), 2)
    )
    yield from build_rows(records, partial(_build, folders, about), report)


def _build(
    folders: list[Path], about: list[dict], where: str, done: float, record: tuple[int, int, int]
) -> Iterator[Row]:
    i, *sides = record
    images = [embedded_image(f"{i:06}.png", folders[side], str(folders[side])) for side in sides]
    prompt = about[0]["prompts"][i]
    pair, swapped = shuffled_pair(prompt, *images)
    made = [_generator(about[side]["settings"], i) for side in sides]
    pair |= dict(zip(("generator_0", "generator_1"), made[::-1] if swapped else made, strict=True))
    if len(folders) > 2:
        pair["group_id"] = content_id("contest", *map(str, folders), prompt, str(i))
    yield Row(where, done, pair, [])


def _generator(settings: dict[str, Any], picture: int) -> dict[str, Any]:
    told = {
        key: value
        for key, value in settings.items()
        if key not in ("repetitions", "prompts", *_SHAPES) and value is not None
    }
    return told | {"repetition": picture % int(settings.get("repetitions", 1))}


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "samples.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": dict(about["settings"]), "prompts": list(about["prompts"])}
    except OSError as error:
        raise PalateError(f"{folder}: no samples here (no samples.json). Make some with `palate sample`.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PalateError(f"{path}: not the description of samples. Sample again into another folder.") from error
