"""Samples of two or more models, on the same prompts and noise, as pairs without votes: a contest between the
models."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from palate.data.importers.common import ImportReport, Record, Row, build_rows, embedded_image, shuffled_pair
from palate.data.samples import OF_THE_MODEL, SHAPES, Samples, different_settings, open_samples, picture_path
from palate.data.schema import content_id
from palate.errors import PalateError


def read(sources: Sequence[Path], report: ImportReport) -> Iterator[Row]:
    """One pair per picture and two models: runs (their `samples`) or folders of samples.

    Which model's picture is image 0 follows from the contents, so voters cannot learn it. generator_0 and generator_1
    say model, sampler, steps, guidance, seed and repetition. With three or more models all their pairs are made, and
    pictures of one prompt and noise share a group_id. Raises PalateError for fewer than two folders, and folders that
    do not share prompts and settings.
    """
    folders = [source / "samples" if (source / "config.yaml").is_file() else source for source in sources]
    if len(folders) < 2:
        raise PalateError("samples: a contest needs the samples of two models or more. Name two folders.")
    opened = [open_samples(folder) for folder in folders]
    for other in opened[1:]:
        different = [k for k in different_settings(opened[0].settings, other.settings) if k not in OF_THE_MODEL]
        if different or other.prompts != opened[0].prompts:
            raise PalateError(
                f"{folders[0]} and {other.folder} were not sampled alike (different:"
                f" {', '.join(different) or 'prompts'}), so their pictures are no pairs. Sample both with the same"
                " prompts and settings."
            )
    prompts = opened[0].prompts
    records: Iterator[Record] = (
        (f"picture {i} of {folders[a]} and {folders[b]}", (i + 1) / len(prompts), (i, a, b))
        for i in range(len(prompts))
        for a, b in combinations(range(len(folders)), 2)
    )
    yield from build_rows(records, partial(_build, opened), report)


def _build(opened: list[Samples], where: str, done: float, record: tuple[int, int, int]) -> Iterator[Row]:
    i, *sides = record
    folders = [opened[side].folder for side in sides]
    images = [embedded_image(picture_path(folder, i).name, folder, str(folder)) for folder in folders]
    prompt = opened[0].prompts[i]
    pair, swapped = shuffled_pair(prompt, *images)
    made = [_generator(opened[side].settings, i) for side in sides]
    pair |= dict(zip(("generator_0", "generator_1"), made[::-1] if swapped else made, strict=True))
    if len(opened) > 2:
        pair["group_id"] = content_id("contest", *(str(one.folder) for one in opened), prompt, str(i))
    yield Row(where, done, pair, [], same_allowed=True)


def _generator(settings: dict[str, Any], picture: int) -> dict[str, Any]:
    told = {
        key: value
        for key, value in settings.items()
        if key not in ("repetitions", "prompts", *SHAPES) and value is not None
    }
    return told | {"repetition": picture % int(settings.get("repetitions", 1))}
