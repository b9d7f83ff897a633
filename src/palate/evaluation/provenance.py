"""Which judges a model was trained to please: what they say of it afterwards is no evidence."""

import json
from pathlib import Path

from palate.data.dataset import open_dataset
from palate.errors import PalateError
from palate.evaluation.samples import Samples
from palate.training.config import read_yaml


def trained_on(model: str | Path) -> frozenset[str]:
    """Names of the judges whose votes, and the rewards whose ranking, a run was trained on; of the runs it started from, too.

    A judge that voted under another annotator id (`palate annotate --name`) is named as well, where the dataset is still
    there to say so. Empty for a model that is no run.
    """
    names: set[str] = set()
    seen: set[Path] = set()
    waiting = [Path(model)]
    while waiting:
        run = waiting.pop()
        if run.resolve() in seen or not (run / "config.yaml").is_file():
            continue
        seen.add(run.resolve())
        config = read_yaml(run / "config.yaml")  # as it is: keys of an older palate do not matter here
        judges = config.get("judge") or []
        used = set([judges] if isinstance(judges, str) else judges) | _told(run)
        if config.get("reward"):
            used.add(config["reward"])
        names |= used | _behind(used, config)
        waiting += [Path(config["start_from"])] if config.get("start_from") else []
    return frozenset(names)


def trained_on_by_samples(samples: Samples) -> frozenset[str]:
    """The same of the model that made these samples, and of the negative model that guided it."""
    beside = samples.folder.parent if samples.folder.name == "samples" else samples.folder  # a run that was moved
    models = [samples.settings.get("model"), samples.settings.get("negative"), beside]
    return frozenset().union(*(trained_on(model) for model in models if model))


def _told(run: Path) -> set[str]:
    """The judge of labels.json."""
    path = run / "labels.json"
    judge = json.loads(path.read_text(encoding="utf-8")).get("judge") if path.is_file() else None
    told = judge.get("name") if isinstance(judge, dict) else None
    return {told} if isinstance(told, str) else set(told or [])


def _behind(annotators: set[str], config: dict) -> set[str]:
    """The judges that voted under these annotator ids; all judges of the dataset where their disagreement was used."""
    try:
        entries = [entry for entry in open_dataset(config["dataset"]).provenance if isinstance(entry, dict)]
    except (PalateError, KeyError, TypeError):
        return set()
    everyone = config.get("uncertainty") is not None
    return {
        entry["judge"] for entry in entries if "judge" in entry and (everyone or entry.get("annotator") in annotators)
    }
