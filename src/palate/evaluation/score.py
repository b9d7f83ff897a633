"""`palate score`: the samples of several models, scored by several scorers."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from palate.data.samples import Samples, open_samples
from palate.errors import PalateError
from palate.evaluation.scorers import is_judge, load_scorer
from palate.evaluation.scores import Scores, score_samples
from palate.evaluation.winrate import Interval, interval_text, mean_interval
from palate.sampling.naming import require_models
from palate.sampling.origin import trained_since
from palate.sampling.provenance import learned_by_samples

T = TypeVar("T")


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
    models: Sequence[str | Path],
    scorers: list[str],
    common: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    batch_size: int | None = None,
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> list[Scored]:
    """Score the samples of runs (and their base-samples) and of folders of samples; the scores are kept beside them.

    `common` are settings of every reward model; `settings` are theirs by key, or by "NAME.key" for the scorer NAME.
    What cannot be scored, a folder or a scorer or one by the other, is given to `tell` as a line, and the rest is
    scored. Raises PalateError where nothing could be, and for wrong settings.
    """
    require_models(models, "score")
    asked = list(dict.fromkeys(scorers))
    given = scorer_settings(asked, common or {}, settings or {})
    failed: list[PalateError] = []

    def tried(call: Callable[[], T]) -> T | None:
        try:
            return call()
        except PalateError as error:
            failed.append(error)
            tell(f"score: not scored: {error}")
            return None

    results: dict[Path, tuple[Samples, list[Scores]]] = {}
    for model in models:
        for folder in tried(partial(_folders, Path(model))) or []:
            if samples := tried(partial(open_samples, folder)):
                results[samples.folder] = samples, []
    for name in asked if results else []:
        if not (scorer := tried(partial(load_scorer, name, **given[name]))):
            continue
        for samples, found in results.values():
            found += tried(partial(score_samples, samples, scorer, batch_size)) or []
    scored = [_summary(samples, found) for samples, found in results.values() if found]
    if failed and not scored:
        raise failed[0]
    return scored


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


def scorer_settings(scorers: list[str], common: dict[str, Any], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by scorer. Raises PalateError for what belongs to none of them, or one model for several."""
    judges = [name for name in scorers if name.startswith("diversity:") or (":" not in name and is_judge(name))]
    if "model" in common and len(judges) != 1:
        raise PalateError(f"--model is for one reward model, and there are {len(judges)}. Use --set NAME.model=PATH.")
    given: dict[str, dict[str, Any]] = {name: dict(common) if name in judges else {} for name in scorers}
    for key, value in settings.items():
        name, _, own = key.rpartition(".")
        if name and name not in given:
            raise PalateError(f"--set {key}: {name} is none of the scorers ({', '.join(scorers)}).")
        for scorer in [name] if name else judges:
            given[scorer][own] = value
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
