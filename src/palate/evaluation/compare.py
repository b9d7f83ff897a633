"""Compares models on the same prompts and noise: paired win rates with intervals clustered by prompt."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from palate.command import command_line
from palate.data.samples import OF_THE_MODEL, Samples, Sampling, different_settings, open_samples
from palate.errors import PalateError
from palate.evaluation.results import Comparison, Evaluated
from palate.evaluation.scorers import statistic_names
from palate.evaluation.scores import Scores, drift, scored_alike, verdicts
from palate.evaluation.seeds import Group, families, group_names, grouped
from palate.evaluation.strengths import Table, strengths
from palate.evaluation.winrate import Interval, mean_interval, mean_intervals, win_rate
from palate.run.drift import drift_of
from palate.run.load import base_model, load_config
from palate.sampling.naming import require_models
from palate.sampling.origin import require_one_base, run_of, trained_since
from palate.sampling.prompts import Suite, listed, load_suite, shipped_prompts
from palate.sampling.provenance import learned_by_samples
from palate.sampling.samples import sample
from palate.world import SHIPPED

__all__ = ["Comparison", "Evaluated", "base_samples_of", "compare", "evaluate", "samples_of"]


def compare(
    models: str | Path | Sequence[str | Path], against: str | Path = "base", *,
    prompts: str | Path | Suite | None = None,
    scorer: str | list[str] | None = None, sampling: Sampling | None = None, device: str | None = None,
    group: bool = False,
) -> Comparison:  # fmt: skip
    """Compare runs with their base model, another run, or a folder of samples. Missing samples are made first.

    `prompts` (a file, a suite, or "world") is needed when there are no samples yet. `scorer` is one name or several;
    when absent, those that scored the first model's samples, else "world". With several, the headline is the first
    scorer that no model was trained on (a picture statistic only if there is nothing else); the comparisons by the
    other scorers are in `others`. If it is not known what a model was trained on, there is no headline. Stored scores
    are reused.

    Runs whose configurations differ only in their seed are also combined into one result, whose interval covers other
    seeds; with `group` all models are treated as such seeds. If `against` is itself one of several seeds here, its
    seeds count as random, too. Three or more models or groups get a table of strengths; a group is one entry.

    Raises PalateError when the samples of two models cannot be paired (other prompts, seeds or sampler), when runs
    compared with "base" started from different base models, and when a reward model has not scored all samples yet
    (`palate score`).
    """
    models = [models] if isinstance(models, str | Path) else list(models)
    require_models(models, "compare")
    if against == "base":
        require_one_base(models)
    made = [samples_of(model, prompts, sampling, device) for model in models]
    base_samples, base_name = _base(models[0], against, prompts, sampling, device)
    for samples in made:
        _require_pairs(samples, base_samples)
    names = _distinct([base_name, *map(name_of, models)], [base_samples.folder, *models])
    paths = [base_samples.folder, *map(Path, models)]
    everyone = [base_samples, *made]
    scorers = [scorer] if isinstance(scorer, str) else scorer or _those_that_can(everyone) or _default(made[0])
    learned = [learned_by_samples(samples) for samples in everyone]
    drifts = [drift(samples) for samples in everyone]
    moved = [_moved(*one) for one in zip(paths, everyone, strict=True)]
    changes = _changes(drifts, base_samples.prompts)
    start = base_samples.folder if against == "base" else against
    seeds = [list(range(1, len(everyone)))] if group else _families([start, *models], everyone)
    if group and len(models) < 2:
        raise PalateError("--group combines the training seeds of one method: name two runs or more.")
    sections = []
    for one in dict.fromkeys(scorers):
        scored = scored_alike(everyone, one)
        scores = [own.values for own in scored]
        means = mean_intervals(scores, base_samples.prompts)
        found = map(_evaluated, names, paths, everyone, scored, drifts, means)
        base, *rows = (replace(row, moved=far) for row, far in zip(found, moved, strict=True))
        rows = [_against(row, base, change) for row, change in zip(rows, changes, strict=True)]
        judged = tuple(name for name, about in zip(names, learned, strict=True) if one in about.names)
        groups, table = _together(names, scores, seeds, base_samples.prompts)
        sections.append(Comparison(base, rows, one, scored[0].version, judged, groups, table))
    headline = min(sections, key=lambda section: (bool(section.trained_on), statistic_names(section.scorer)))
    return replace(
        headline,
        others=tuple(section for section in sections if section is not headline),
        lost={name: about.lost for name, about in zip(names, learned, strict=True) if about.lost},
        older=tuple(name for name, samples in zip(names, everyone, strict=True) if trained_since(samples)),
        command=command_line(),
    )


def two_models(
    model: str | Path, against: str | Path, prompts: str | Path | Suite | None = None, sampling: Sampling | None = None,
    device: str | None = None,
) -> tuple[tuple[str, str], tuple[Samples, Samples]]:  # fmt: skip
    """Names and samples of two models, sampled first if `prompts` is given. Raises PalateError as `compare` does."""
    samples = samples_of(model, prompts, sampling, device)
    base, base_name = _base(model, against, prompts, sampling, device)
    _require_pairs(samples, base)
    names = _distinct([name_of(model), base_name], [model, base.folder])
    return (names[0], names[1]), (samples, base)


def _base(
    model: str | Path,
    against: str | Path,
    prompts: str | Path | Suite | None,
    sampling: Sampling | None,
    device: str | None,
) -> tuple[Samples, str]:
    if against == "base":
        return base_samples_of(Path(model), prompts, sampling, device), "base"
    return samples_of(against, prompts, sampling, device), name_of(against)


def evaluate(name: str, path: Path, samples: Samples, scorer: str, base: Evaluated | None = None) -> Evaluated:
    """Score samples, store the scores beside them, and pair them with those of `base`."""
    (scores,) = scored_alike([samples], scorer)
    drifted = drift(samples)
    row = _evaluated(name, path, samples, scores, drifted, mean_interval(scores.values, samples.prompts))
    if base is None:
        return row
    _require_pairs(samples, base.samples)
    return _against(row, base, *_changes([drift(base.samples), drifted], samples.prompts))


def name_of(model: str | Path) -> str:
    """A model's display name: its folder's name, or for a folder `samples` the run's."""
    path = Path(model)
    if path.name in ("samples", "base-samples"):
        return path.resolve().parent.name + (" base" if path.name == "base-samples" else "")
    return path.name


def _evaluated(
    name: str, path: Path, samples: Samples, scores: Scores, drifted: dict[str, np.ndarray], mean: Interval
) -> Evaluated:
    means = {statistic: float(values.mean()) for statistic, values in drifted.items()}
    return Evaluated(name, path, samples, scores.values, mean, means, None)


def _against(row: Evaluated, base: Evaluated, change: dict[str, Interval]) -> Evaluated:
    return replace(row, win=win_rate(row.scores, base.scores, row.samples.prompts), drift_change=change)


def _changes(drifts: list[dict[str, np.ndarray]], prompts: list[str]) -> list[dict[str, Interval]]:
    """For each model after the base, which is first: how its picture statistics differ from the base's. All intervals
    share one set of bootstrap draws."""
    before, *after = drifts
    found = [
        (k, name, values - before[name])
        for k, own in enumerate(after)
        for name, values in own.items()
        if name in before
    ]
    out: list[dict[str, Interval]] = [{} for _ in after]
    for (k, name, _), interval in zip(found, mean_intervals([values for *_, values in found], prompts), strict=True):
        out[k][name] = interval
    return out


def _families(folders: list[str | Path], everyone: list[Samples]) -> list[list[int]]:
    """Groups of positions of runs that are training seeds of one method. The base (position 0) may be in a group,
    unless that group would then contain everything."""
    runs = [_run_of(*pair) for pair in zip(folders, everyone, strict=True)]
    found = families(runs)
    return families([None, *runs[1:]]) if [*range(len(runs))] in map(sorted, found) else found


def _together(
    names: list[str], scores: list[np.ndarray], seeds: list[list[int]], prompts: list[str]
) -> tuple[tuple[Group, ...], Table | None]:
    """The groups of training seeds against the base (or its own seeds), and the table of strengths."""
    titles = group_names([[names[k] for k in members] for members in seeds])
    of_base = next(
        ((title, members) for title, members in zip(titles, seeds, strict=True) if 0 in members), (names[0], [0])
    )
    base = np.stack([scores[k] for k in of_base[1]])
    groups = tuple(
        grouped(
            title,
            [names[k] for k in members],
            [scores[k] for k in members],
            None if 0 in members else base,
            prompts,
            of_base[0],
        )
        for title, members in zip(titles, seeds, strict=True)
    )
    single = [(names[k], [k]) for k in range(len(names)) if not any(k in members for members in seeds)]
    entries = sorted([*single, *zip(titles, seeds, strict=True)], key=lambda entry: min(entry[1]))
    if len(entries) < 3:
        return groups, None
    tables = [np.stack([scores[k] for k in members]) for _, members in entries]
    return groups, strengths([name for name, _ in entries], tables, prompts)


def _run_of(model: str | Path, samples: Samples) -> Path:
    if (Path(model) / "config.yaml").is_file():
        return Path(model)
    return run_of(samples) or Path(samples.settings.get("model", ""))


def _moved(path: Path, samples: Samples) -> Interval | None:
    run = path if (path / "config.yaml").is_file() else run_of(samples)
    return None if run is None else drift_of(run)


def _those_that_can(everyone: list[Samples]) -> list[str]:
    """The first model's scorers that have scored, or can score, all models; why others are left out is printed. If none
    can, all of them: the first one's reason then becomes the error."""
    found, reasons = verdicts(everyone[1]), {}
    for name in found:
        try:
            scored_alike(everyone, name)
        except PalateError as error:
            reasons[name] = error
    if len(reasons) == len(found):
        return found
    for name, reason in reasons.items():
        print(f"compare: without {name}: {reason}", file=sys.stderr)
    return [name for name in found if name not in reasons]


def _default(samples: Samples) -> list[str]:
    """The truth of a small world for its prompts. PalateError for other prompts: the scorer must be named."""
    for world in SHIPPED:
        if set(samples.prompts) <= {prompt for prompt, _ in shipped_prompts(world)}:
            return [world]
    raise PalateError(
        f"{samples.folder}: nothing has scored these pictures yet. Name who judges (--scorer NAME), or let a "
        f"reward model score them first: palate score {samples.folder} --scorer pickscore."
    )


def _distinct(names: list[str], paths: Sequence[str | Path]) -> list[str]:
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def samples_of(
    model: str | Path, prompts: str | Path | Suite | None, sampling: Sampling | None = None, device: str | None = None
) -> Samples:  # fmt: skip
    """The samples of a run (RUN/samples), or of a folder that contains samples; made now if `prompts` is given."""
    folder = Path(model)
    if (folder / "samples.json").is_file():
        return open_samples(folder)
    if not (folder / "config.yaml").is_file():
        raise PalateError(f"{folder}: neither a run (no config.yaml) nor a folder of samples (no samples.json).")
    return _sample_or_open(folder, folder / "samples", prompts, sampling, device)


def base_samples_of(
    run: Path, prompts: str | Path | Suite | None, sampling: Sampling | None = None, device: str | None = None
) -> Samples:  # fmt: skip
    """The samples of the model that a run started from (RUN/base-samples). Without `prompts` they are made with the
    prompts and settings of the run's samples."""
    if not (run / "config.yaml").is_file():
        raise PalateError(
            f"{run}: not a run (no config.yaml), so it has no base. Name the samples to compare with: --against FOLDER."
        )
    config = load_config(run / "config.yaml")
    parts = base_model(config)
    if prompts is None and (run / "samples" / "samples.json").is_file():
        made = open_samples(run / "samples")
        if not _holds_others(run / "base-samples", made):
            shared = [name for name in Sampling.__dataclass_fields__ if name not in OF_THE_MODEL]
            sampling = Sampling(**{name: made.settings[name] for name in shared})
            prompts = listed(made.prompts[:: sampling.repetitions], made.suite)
    base, others = parts["name_or_path"], (parts["revision"], parts["variant"], parts["vae"])
    return _sample_or_open(base, run / "base-samples", prompts, sampling, device, *others)


def _holds_others(folder: Path, made: Samples) -> bool:
    """Whether a folder has samples that are finished, or were made with other settings: add nothing there."""
    if not (folder / "samples.json").is_file():
        return False
    there = open_samples(folder)
    return not there.missing or _differ(made, there) != []


def _sample_or_open(
    model: str | Path, folder: Path, prompts: str | Path | Suite | None, sampling: Sampling | None,
    device: str | None, revision: str | None = None, variant: str | None = None, vae: str | None = None,
) -> Samples:  # fmt: skip
    if prompts is not None:
        suite = prompts if isinstance(prompts, Suite) else load_suite(prompts)
        how = sampling or Sampling()
        return sample(model, suite, folder, how, device=device, revision=revision, variant=variant, vae=vae)
    if not (folder / "samples.json").is_file():
        raise PalateError(f"{folder}: no samples yet. Add --prompts FILE (or world) to make them.")
    return open_samples(folder)


def _differ(first: Samples, second: Samples) -> list[str]:
    """The settings, other than the model, in which two folders of samples differ."""
    keys = [key for key in different_settings(first.settings, second.settings) if key not in OF_THE_MODEL]
    return keys or ([] if first.prompts == second.prompts else ["prompts"])


def _require_pairs(first: Samples, second: Samples) -> None:
    if keys := _differ(first, second):
        raise PalateError(f"{first.folder} and {second.folder} were not sampled alike (different: {', '.join(keys)}), "
                          "so they cannot be paired. Sample both with the same prompts and settings.")  # fmt: skip
