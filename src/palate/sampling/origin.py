"""The origin of samples, as samples.json stores it: the command, the model's path, weights and base, and what it
learned from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.backbones.folders import weights_hash
from palate.command import command_line
from palate.data.samples import open_samples
from palate.errors import PalateError
from palate.run.load import read_yaml
from palate.sampling.provenance import Learned, found_from, learned_from, run_beside
from palate.version import __version__
from palate.world import SHIPPED

Base = dict[str, str | None]  # of a run, the model that it started from: `model`, `revision`, and its `place`

if TYPE_CHECKING:
    from palate.data.samples import Samples

DENOISERS = ("unet", "transformer")


def said() -> dict[str, str]:
    """The command that made the samples, the folder in which it was typed, and the version of palate."""
    return {"palate": __version__, "command": command_line(), "folder": str(Path.cwd())}


def origin_of(model: str | Path, negative: str | None, revision: str | None) -> dict[str, Any]:
    """Facts that are lost once the model is moved, trained further or deleted; collect them before sampling."""
    learned = learned_from(model, revision) | (learned_from(negative) if negative else Learned())
    parts = {"model": str(model), **({"negative": negative} if negative else {})}
    places = {
        key: str(Path(name).resolve()) for key, name in parts.items() if name not in SHIPPED and Path(name).exists()
    }
    weights = {key: weights_of(name) for key, name in parts.items()}
    return said() | {
        "places": places,
        "weights": weights,
        "base": _base(Path(model)),
        "learned": learned.as_dict(),
    }


def weights_of(model: str | Path) -> str | None:
    """A hash of a run's trained weights, or of a pipeline folder's denoiser; None where neither exists."""
    folder = SHIPPED.get(str(model), Path(model))
    if folder.is_file():  # a whole model in one file
        return weights_hash([folder])
    if (folder / "config.yaml").is_file():
        return weights_hash([folder / "model"])
    return weights_hash([folder / name for name in DENOISERS if (folder / name).is_dir()])


def trained_since(samples: "Samples") -> str | None:
    """The model, or the negative one, where its weights have changed since; None also where it is gone or its weights
    were not recorded."""
    for key, before in samples.origin.get("weights", {}).items():
        place = _place(samples, key)
        now = weights_of(place) if place else None
        if before and now and before != now:
            return str(samples.settings[key])
    return None


def run_of(samples: "Samples") -> Path | None:
    """The run that made these samples, where it can be found; None for samples of a pipeline, or of a run that is
    gone."""
    place = _place(samples, "model")
    return Path(place) if place and (Path(place) / "config.yaml").is_file() else None


def same_model(samples: "Samples", key: str, name: str) -> bool:
    """Whether `name` means the place that made these samples as "model" or "negative", in whatever spelling."""
    if key == "model" and (beside := run_beside(samples.folder)):
        return Path(name).resolve() == beside
    before = samples.settings.get(key)
    if not before or not name or before in SHIPPED or name in SHIPPED:
        return before == name
    place = samples.origin.get("places", {}).get(key) or str(Path(before).resolve())
    return before == name or place == str(Path(name).resolve())


def require_one_base(models: list[str | Path]) -> None:
    """Raises PalateError where runs, or folders of their samples, started from different base models: then no base can
    be compared with all of them."""
    bases = [(model, base) for model in models if (base := _base_of(Path(model)))]
    for model, base in bases[1:]:
        first, one = bases[0]
        if not _same_base(one, base):
            raise PalateError(
                f"{first} started from {_words(one)}, and {model} from {_words(base)}: there is no base for both."
                " Compare the two with each other (--against), or name runs of one base model."
            )


def _base_of(model: Path) -> Base | None:
    if (model / "config.yaml").is_file():
        return _base(model)
    if run := run_beside(model):
        return _base(run)
    path = model / "samples.json"
    if not path.is_file():
        return None
    origin = open_samples(model).origin
    return origin.get("base") if isinstance(origin.get("base"), dict) else None


def _base(run: Path) -> Base | None:
    """Name, revision and path of the model that a run started from; None for a pipeline."""
    if not (run / "config.yaml").is_file():
        return None
    config = read_yaml(run / "config.yaml")
    name = str(config.get("pretrained_model_name_or_path"))
    place = found_from(name, run)
    told = {"model": name, "revision": config.get("revision"), "place": str(place.resolve()) if place else None}
    return told | ({"vae": str(config["vae"])} if config.get("vae") else {})


def _same_base(one: Base, other: Base) -> bool:
    if one["revision"] != other["revision"] or one.get("vae") != other.get("vae"):
        return False
    places = (one["place"], other["place"])
    if not all(places) or places[0] == places[1]:
        return one["model"] == other["model"] or (all(places) and places[0] == places[1])
    hashes = [weights_of(str(place)) for place in places]  # a copy in another place is the same model
    return bool(hashes[0]) and hashes[0] == hashes[1]


def _words(base: Base) -> str:
    return f"{base['model']}" + (f" at {base['revision']}" if base["revision"] else "")


def _place(samples: "Samples", key: str) -> str | None:
    """The model's path; a run's own samples find it even after both were moved together."""
    if key == "model" and (beside := run_beside(samples.folder)):
        return str(beside)
    if samples.settings.get(key) in SHIPPED:
        return str(samples.settings[key])
    place = samples.origin.get("places", {}).get(key)
    if not samples.origin and samples.settings.get(key):
        found = found_from(samples.settings[key], samples.folder)
        place = str(found) if found else None
    return place if place and Path(place).exists() else None
