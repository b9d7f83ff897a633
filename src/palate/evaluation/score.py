"""`palate score`: the samples of several models, scored by several scorers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from palate.data.samples import Samples, open_samples
from palate.errors import PalateError
from palate.evaluation.scorers import DIVERSITY, Scorer, is_judge, load_scorer
from palate.evaluation.scores import Scores, repetitions, score_samples
from palate.evaluation.winrate import Interval, interval_text, mean_interval
from palate.sampling.naming import require_models
from palate.sampling.origin import trained_since
from palate.sampling.provenance import learned_by_samples


@dataclass(frozen=True)
class Scored:
    """What the scorers said of one folder: by column the mean with its 95 % interval, clustered by prompt."""

    samples: Samples
    means: dict[str, Interval]
    versions: dict[str, str]
    trained_on: tuple[str, ...]  # columns whose scorer the model was trained to please
    lost: tuple[str, ...] = ()  # what would say what else it was trained on, and is not there
    older: bool = False  # the model was trained further since

    def as_dict(self) -> dict[str, Any]:
        n = {"samples": self.samples.folder, "n": len(self.samples.prompts), "prompts": len(set(self.samples.prompts))}
        about = {"used_in_training": self.trained_on, "training_not_known": self.lost, "older_weights": self.older}
        return n | {"means": self.means, "versions": self.versions} | about


def score(
    models: list[str | Path],
    scorers: list[str],
    common: dict[str, Any] | None = None,
    settings: list[str] | None = None,
    batch_size: int | None = None,
    command: str | None = None,
) -> list[Scored]:
    """Score the samples of runs (and their base-samples) and of folders of samples; the scores are kept beside them.

    `common` are settings of every reward model; `settings` are "key=value", or "NAME.key=value" for the scorer NAME.
    `command` is stored beside the scores. Raises PalateError for a folder without samples, one `model` for several
    reward models, and as `score_samples` does.
    """
    require_models(models, "score")
    folders = [open_samples(folder) for model in models for folder in _folders(Path(model))]
    asked = list(dict.fromkeys(scorers))
    single = [str(samples.folder) for samples in folders if repetitions(samples) < 2]
    if single and (
        apart := [name for name in asked if name.partition(":")[0] == DIVERSITY]
    ):  # before others take their time
        raise PalateError(f"{single[0]}: {apart[0]} needs several pictures of a prompt. Sample with --repetitions 4.")
    given = scorer_settings(asked, common or {}, settings or [])
    results: dict[Path, list[Scores]] = {samples.folder: [] for samples in folders}
    for name in asked:
        scorer: Scorer = load_scorer(name, **given[name])
        for samples in folders:
            results[samples.folder] += score_samples(samples, scorer, batch_size, command)
    return [_summary(samples, results[samples.folder]) for samples in folders]


def score_lines(scored: Scored) -> list[str]:
    """The means as lines for a terminal."""
    prompts = scored.samples.prompts
    out = [f"score: {scored.samples.folder} · {len(prompts):,} pictures on {len(set(prompts)):,} prompts"]
    for name, interval in scored.means.items():
        mark = "   used in training: no evidence" if name in scored.trained_on else ""
        out.append(f"  {name:<16} {interval_text(interval, '.3f')}{mark}")
    if scored.lost:
        out.append(
            "  not known what this model was trained on, so none of these is sure to be evidence:"
            f" {'; '.join(scored.lost)} not found"
        )
    if scored.older:
        out.append("  these pictures are of older weights: the model was trained further since")
    return out


def scorer_settings(scorers: list[str], common: dict[str, Any], settings: list[str]) -> dict[str, dict[str, Any]]:
    """Settings by scorer. Raises PalateError for what belongs to none of them, or one model for several."""
    judges = [name for name in scorers if name.startswith("diversity:") or (":" not in name and is_judge(name))]
    if "model" in common and len(judges) != 1:
        raise PalateError(f"--model is for one reward model, and there are {len(judges)}. Use --set NAME.model=PATH.")
    given: dict[str, dict[str, Any]] = {name: dict(common) if name in judges else {} for name in scorers}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise PalateError(f"--set {setting!r}: write it as key=value, or NAME.key=value.")
        name, _, own = key.rpartition(".")
        if name and name not in given:
            raise PalateError(f"--set {setting!r}: {name} is none of the scorers ({', '.join(scorers)}).")
        for scorer in [name] if name else judges:
            given[scorer][own] = yaml.safe_load(text) if text else ""
    return given


def _folders(model: Path) -> list[Path]:
    if (model / "samples.json").is_file():
        return [model]
    found = [model / name for name in ("samples", "base-samples") if (model / name / "samples.json").is_file()]
    if not found:
        raise PalateError(f"{model}: no samples to score. Make some first: palate sample {model} --prompts FILE.")
    return found


def _summary(samples: Samples, scores: list[Scores]) -> Scored:
    learned = learned_by_samples(samples)
    return Scored(
        samples,
        {one.scorer: mean_interval(one.values, samples.prompts) for one in scores},
        {one.scorer: one.version for one in scores},
        tuple(one.scorer for one in scores if one.scorer in learned.names),
        learned.lost,
        bool(trained_since(samples)),
    )
