"""Which judges a model was trained to please: their later opinion of it is no evidence."""

import json
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import try_to_load_from_cache

from palate.backbones.folders import TRAINED_ON
from palate.data.dataset import open_dataset
from palate.errors import PalateError
from palate.files import read_object
from palate.judges.base import SELF
from palate.judges.load import BUILT_IN
from palate.judges.rewards import STATISTICS
from palate.run.checks import SELF as ITSELF
from palate.run.load import read_yaml
from palate.world import SHIPPED, WORLD

if TYPE_CHECKING:
    from palate.data.samples import Samples


@dataclass(frozen=True)
class Learned:
    """Judges whose votes, and rewards whose ranking, a model was trained on."""

    names: frozenset[str] = frozenset()
    lost: tuple[str, ...] = ()  # missing sources, in words; where there are any, `names` may be incomplete

    def __or__(self, other: "Learned") -> "Learned":
        return Learned(self.names | other.names, tuple(dict.fromkeys((*self.lost, *other.lost))))

    def as_dict(self) -> dict[str, list[str]]:
        """As JSON holds it, in samples.json and beside exported models; `learned_from_dict` reads it."""
        return {"trained_on": sorted(self.names), "lost": list(self.lost)}


def learned_from_dict(told: dict[str, Any]) -> Learned:
    """Read the result of `as_dict`."""
    return Learned(frozenset(told["trained_on"]), tuple(told.get("lost", ())))


def learned_from(model: str | Path, revision: str | None = None) -> Learned:
    """What a run learned from, together with the runs and the base model that it started from; for a pipeline, what the
    record beside it says.

    A judge that voted under another annotator id (`palate annotate --name`) is named as well, where the dataset still
    exists and says so. A relative path in a run's configuration is looked for first in the folders above the run, then
    in the current folder.
    """
    found, seen, first = Learned(), set(), Path(model)
    waiting = [first.resolve() if first.is_dir() and str(model) not in SHIPPED else first]
    while waiting:
        run = waiting.pop()
        if run in seen:
            continue
        seen.add(run)
        if not (run / "config.yaml").is_file():
            found |= _of_pipeline(str(run), revision)
            continue
        config = read_yaml(run / "config.yaml")  # unchecked: keys of an older palate do not matter here
        found |= _of_run(run, config)
        base = str(config.get("pretrained_model_name_or_path", WORLD))
        found |= _of_pipeline(str(found_from(base, run) or base), config.get("revision"))
        if config.get("start_from"):
            earlier = found_from(config["start_from"], run, "config.yaml")
            if earlier:
                waiting.append(earlier.resolve())
            else:
                found |= Learned(lost=(f"the run {config['start_from']}, from which {run.name} started",))
    return found


def learned_by_samples(samples: "Samples") -> Learned:
    """What the model that made these samples, and the negative model that guided it, learned from, as recorded when the
    samples were made. Where that record is missing or incomplete, the run is asked, if it can still be found."""
    told = samples.origin.get("learned")
    known = learned_from_dict(told) if told else Learned()
    if told and not known.lost:
        return known
    now = _of_older_samples(samples)
    return Learned(known.names | now.names, now.lost)


def run_beside(folder: Path) -> Path | None:
    """The run whose own samples these are (RUN/samples), even if it was moved; None for other folders."""
    run = folder.resolve().parent
    return run if folder.resolve().name == "samples" and (run / "config.yaml").is_file() else None


def found_from(name: str | Path, near: Path, holds: str = "") -> Path | None:
    """The folder (or the file of a whole model) at a relative path, seen from a folder above `near` or else from the
    current folder; None where it does not exist.

    `holds` names a file that the folder must contain.
    """
    if str(name) in SHIPPED:
        return None
    above = () if Path(name).is_absolute() else near.resolve().parents
    places = (place / name for place in (*above, Path()))
    return next((place for place in places if place.exists() and (place / holds).exists()), None)


def _of_older_samples(samples: "Samples") -> Learned:
    settings, folder = samples.settings, samples.folder
    if folder.name == "base-samples" and (folder.parent / "config.yaml").is_file():
        base = str(settings.get("model"))  # a missing base model is not one of palate's: samples.json would name it
        return _of_pipeline(str(found_from(base, folder) or base), settings.get("revision"))
    found = Learned()
    for key in ("model", "negative"):
        name = settings.get(key)
        place = run_beside(folder) if key == "model" else None
        place = place or (found_from(name, folder) if name else None)
        if place:
            found |= learned_from(place)
        elif name and name not in SHIPPED and not _cached(name, "model_index.json", settings.get("revision")):
            found |= Learned(lost=(f"{'the model' if key == 'model' else 'the negative run'} {name}",))
    if (folder / "config.yaml").is_file():
        found |= learned_from(folder)
    return found


def _of_pipeline(name: str, revision: str | None) -> Learned:
    """The record that `palate export` wrote into a pipeline folder, or into the hub's local copy of one."""
    path = Path(name) / TRAINED_ON if Path(name).is_dir() else _cached(name, TRAINED_ON, revision)
    if name in SHIPPED or path is None or not path.is_file():
        return Learned()
    try:
        return learned_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Learned(lost=(f"{name}'s {TRAINED_ON}, which is damaged",))


def _cached(name: str, file: str, revision: str | None) -> Path | None:
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        return None
    try:
        path = try_to_load_from_cache(name, file, revision=revision)
    except ValueError:  # not a name that the hub allows
        return None
    return Path(path) if isinstance(path, str) else None


def _of_run(run: Path, config: dict[str, Any]) -> Learned:
    judges = config.get("judge") or []
    used = set([judges] if isinstance(judges, str) else judges) | _told(run)
    everyone = config.get("uncertainty") is not None  # uncertainty uses the disagreement of all judges of the dataset
    reward = {config["reward"]} if config.get("reward") else set()
    place = found_from(config["dataset"], run, "dataset.json") if config.get("dataset") else None
    try:
        entries = [entry for entry in open_dataset(place).provenance if isinstance(entry, dict)] if place else None
    except PalateError:
        entries = None
    if entries is None:
        unclear = everyone or any(not _is_scorer(name) for name in used)
        lost = (f"the dataset {config.get('dataset')}, which says who judged for {run.name}",) if unclear else ()
        return Learned(frozenset(used | reward), lost)
    behind = {entry["judge"] for entry in entries if "judge" in entry and (everyone or entry.get("annotator") in used)}
    return Learned(frozenset(used | reward | behind))


def _is_scorer(name: str) -> bool:
    """Whether an annotator id alone identifies the judge: a judge of palate or of a package, or the model itself."""
    plug_ins = (entry_points(group=f"palate.{kind}").names for kind in ("judges", "scorers"))
    known = {*BUILT_IN, *STATISTICS, *SHIPPED, ITSELF}.union(*plug_ins)
    return name in known or name.startswith(SELF) or set(name.split("+")) <= known


def _told(run: Path) -> set[str]:
    """The judge that labels.json names."""
    path = run / "labels.json"
    judge = (
        read_object(path, "The run's `palate train` command writes it again.").get("judge") if path.is_file() else None
    )
    told = judge.get("name") if isinstance(judge, dict) else None
    return {told} if isinstance(told, str) else {str(name) for name in told} if isinstance(told, list) else set()
