"""Scores beside the pictures (scores.parquet): computed batch by batch, keyed by content, never computed twice."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from palate.data.images import decode_image
from palate.data.samples import Samples
from palate.errors import PalateError
from palate.evaluation.scorers import DIVERSITY, DRIFT, Scorer, is_judge, load_scorer, statistic_names
from palate.files import atomic_path, write_text
from palate.progress import progress_bar
from palate.sampling.origin import said

SCORES = pa.schema(
    [("picture", pa.int32()), ("prompt", pa.string()), ("repetition", pa.int32()), ("scorer", pa.string()),
     ("version", pa.string()), ("content", pa.string()), ("score", pa.float64())]
)  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """One scorer's scores, in one version, of a folder's N pictures: values [N], NaN if not scored yet."""

    scorer: str
    version: str
    values: np.ndarray

    @property
    def complete(self) -> bool:
        return bool(np.isfinite(self.values).all())


def score_samples(samples: Samples, scorer: Scorer | str, batch_size: int | None = None) -> list[Scores]:
    """The scores of all pictures, one entry per column of the scorer; only missing scores are computed.

    Every batch is stored at once, so an interrupted call resumes. Scores are keyed by the bytes of the picture: a
    changed picture is scored again. The command goes into scores.json. Raises PalateError while pictures are missing,
    for diversity of single pictures, and for a scorer that fails or gives no finite number; finished scores are kept.
    """
    scorer = load_scorer(scorer) if isinstance(scorer, str) else scorer
    if scorer.whole_prompts and repetitions(samples) < 2:
        raise PalateError(
            f"{samples.folder}: {scorer.name} needs several pictures of a prompt. Sample with --repetitions 4."
        )
    content = samples.contents
    values = np.stack(
        [_values(read_scores(samples.folder), column, scorer.version, content) for column in scorer.columns], axis=1
    )
    missing = np.flatnonzero(np.isnan(values).any(axis=1))
    if scorer.whole_prompts and len(missing):
        groups = np.unique(missing // repetitions(samples))
        missing = (groups[:, None] * repetitions(samples) + np.arange(repetitions(samples))).ravel()
    if len(missing):
        with progress_bar(f"{scorer.name} scores {samples.folder.name}", len(missing)) as advance:
            for batch in _batches(missing, scorer, batch_size, repetitions(samples)):
                values[batch] = _scored(samples, scorer, batch)
                _store(samples, scorer, values)
                _store_command(samples.folder, scorer)
                advance(len(batch))
    return [Scores(column, scorer.version, values[:, k]) for k, column in enumerate(scorer.columns)]


def stored_scores(samples: Samples) -> list[Scores]:
    """Every scorer and version that scored all current pictures, in the order in which they first did."""
    table = read_scores(samples.folder)
    known = dict.fromkeys(zip(table["scorer"].to_pylist(), table["version"].to_pylist(), strict=True))
    found = [Scores(name, version, _values(table, name, version, samples.contents)) for name, version in known]
    return [scores for scores in found if scores.complete]


def drift(samples: Samples) -> dict[str, np.ndarray]:
    """Picture statistics [N] by name, and diversity if prompts have several pictures: what may change unasked."""
    names = [DRIFT, DIVERSITY] if repetitions(samples) > 1 else [DRIFT]
    return {scores.scorer: scores.values for name in names for scores in score_samples(samples, name)}


def verdicts(samples: Samples) -> list[str]:
    """Names of the stored scorers that judge quality, in the order in which they scored."""
    return list(dict.fromkeys(s.scorer for s in stored_scores(samples) if not statistic_names(s.scorer)))


def scored_alike(folders: list[Samples], scorer: str) -> list[Scores]:
    """Scores of several folders by one version of a scorer: stored ones, else computed now unless that needs a reward
    model.

    Raises PalateError if folders lack a judge's scores, or have no version in common.
    """
    stored = [{s.version: s for s in stored_scores(samples) if s.scorer == scorer} for samples in folders]
    common = [version for version in stored[0] if all(version in versions for versions in stored)]
    if common:
        return [versions[common[-1]] for versions in stored]
    if not is_judge(scorer) and not scorer.startswith(
        f"{DIVERSITY}:"
    ):  # diversity of embeddings needs a judge's network, too
        loaded = load_scorer(scorer)
        if len(loaded.columns) > 1:
            raise PalateError(
                f"{scorer} is shown with every comparison and names no winner. Choose a scorer that does."
            )
        return [score_samples(samples, loaded)[0] for samples in folders]
    without = [str(samples.folder) for samples, versions in zip(folders, stored, strict=True) if not versions]
    if without:
        raise PalateError(f"{without[0]}: no scores of {scorer} yet. Make them: {_how(without, scorer, folders)}.")
    raise PalateError(
        f"{folders[0].folder} and {folders[-1].folder} were scored by different versions of {scorer}. "
        "Score both again with the same weights and settings."
    )


def _how(without: list[str], scorer: str, folders: list[Samples]) -> str:
    """The command that adds the missing scores, with the options that scored the other folders."""
    typed = [told.get("command", "") for samples in folders for name, told in score_commands(samples.folder).items()
             if name.split(" ")[0] == scorer]  # fmt: skip
    options = _options(next((command for command in typed if command.startswith("palate score ")), ""), scorer)
    return shlex.join(["palate", "score", *without, "--scorer", scorer, *options])


def _options(command: str, scorer: str) -> list[str]:
    """The options of a `palate score` command that configure one of its scorers."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    single = [place for place, word in enumerate(words[:-1]) if word in ("--model", "--device", "--dtype", "--set")]
    found = [words[place : place + 2] for place in single]
    others = tuple(f"{word}." for place, word in enumerate(words) if words[place - 1] == "--scorer" and word != scorer)
    return [word for pair in found if not (others and pair[1].startswith(others)) for word in pair]


def read_scores(folder: Path) -> pa.Table:
    """The table of SCORES beside the pictures, empty if there is none. Raises PalateError when it is damaged."""
    path = folder / "scores.parquet"
    if not path.exists():
        return SCORES.empty_table()
    try:
        whole = pa.BufferReader(path.read_bytes())  # read at once, because another process may replace the file
        table = pq.read_table(whole, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise PalateError(f"{path}: not a readable table of scores. Delete it and score again.") from error
    if set(table.column_names) < set(SCORES.names):
        return SCORES.empty_table()  # of an older version
    if not set(SCORES.names) <= set(table.column_names):
        raise PalateError(f"{path}: not a readable table of scores. Delete it and score again.")
    return table.select(SCORES.names).cast(SCORES)


def score_commands(folder: Path) -> dict[str, dict[str, str]]:
    """ "SCORER VERSION" -> the first command that scored, and its version of palate; {} if scores.json is missing or
    damaged."""
    try:
        told = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def repetitions(samples: Samples) -> int:
    return int(samples.settings["repetitions"])


def _values(table: pa.Table, column: str, version: str, content: list[str]) -> np.ndarray:
    own = table.filter(pc.and_(pc.equal(table["scorer"], column), pc.equal(table["version"], version)))
    by_content = dict(
        zip(
            zip(own["picture"].to_pylist(), own["content"].to_pylist(), strict=True),
            own["score"].to_pylist(),
            strict=True,
        )
    )
    return np.array([by_content.get(place, np.nan) for place in enumerate(content)], dtype=np.float64)


def _batches(missing: np.ndarray, scorer: Scorer, size: int | None, group: int) -> Iterator[np.ndarray]:
    size = max(1, size or scorer.batch_size)
    size = max(1, size // group) * group if scorer.whole_prompts else size
    for start in range(0, len(missing), size):
        yield missing[start : start + size]


def _scored(samples: Samples, scorer: Scorer, batch: np.ndarray) -> np.ndarray:
    """[len(batch), columns], all finite."""
    images = [decode_image({"path": str(samples.paths[i])}, ".") for i in batch]
    prompts = [samples.prompts[i] for i in batch]
    step = repetitions(samples) if scorer.whole_prompts else len(batch)
    try:
        parts = [scorer.score(images[k : k + step], prompts[k : k + step]) for k in range(0, len(batch), step)]
    except PalateError:
        raise
    except Exception as error:  # a plug-in raises anything
        raise PalateError(
            f"scorer {scorer.name!r} failed on pictures {batch[0]} to {batch[-1]} of {samples.folder} "
            f"({type(error).__name__}: {' '.join(str(error).split())}). What was scored before is kept."
        ) from error
    scores = np.concatenate(parts)
    wrong = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if scores.shape != (len(batch), len(scorer.columns)) or len(wrong):
        which = f", picture {batch[wrong[0]]} has none" if len(wrong) else ""
        raise PalateError(
            f"scorer {scorer.name!r} must give one finite number for each picture of {samples.folder}{which}. "
            "What was scored before is kept."
        )
    return scores


def _store(samples: Samples, scorer: Scorer, values: np.ndarray) -> None:
    """Replace this scorer's rows by its scores so far. The file is read again first: another process may score here,
    too."""
    table = read_scores(samples.folder)
    own = pc.and_(pc.is_in(table["scorer"], pa.array(scorer.columns)), pc.equal(table["version"], scorer.version))
    done, times = np.flatnonzero(np.isfinite(values).all(axis=1)), repetitions(samples)
    new = [
        pa.table(
            [
                done,
                [samples.prompts[i] for i in done],
                done % times,
                [column] * len(done),
                [scorer.version] * len(done),
                [samples.contents[i] for i in done],
                values[done, k],
            ],
            names=SCORES.names,
        ).cast(SCORES)
        for k, column in enumerate(scorer.columns)
    ]
    with atomic_path(samples.folder / "scores.parquet") as temporary:
        table = pa.concat_tables([table.filter(pc.invert(own)), *new])
        pq.write_table(table, temporary, write_page_checksum=True)


def _store_command(folder: Path, scorer: Scorer) -> None:
    """Store the first command that asked for these scores."""
    told, name = score_commands(folder), f"{scorer.name} {scorer.version}"
    if name not in told:
        write_text(folder / "scores.json", json.dumps(told | {name: said()}, indent=1))
