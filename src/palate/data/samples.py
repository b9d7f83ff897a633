"""A folder of samples on disk: pictures, and samples.json with their settings and their model."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from palate.arrays import Pixels
from palate.data.images import decode_image
from palate.data.schema import content_id
from palate.errors import PalateError


@dataclass(frozen=True)
class Sampling:
    """How pictures are made. Guidance in diffusers' convention: unconditional + guidance·(conditional -
    unconditional)."""

    steps: int | None = None
    """None is the default of the model's family, for Stable Diffusion 1.x 25 steps; likewise for guidance, there
    7.5."""
    guidance: float | None = None
    sampler: str = "default"
    """default is euler for models of flow matching, and dpm++ for all others."""
    seed: int = 0
    repetitions: int = 1
    """Pictures per prompt, each from its own noise."""
    negative: str | None = None
    """A run whose network takes the place of the unconditional one (Diffusion-NPO); needs guidance above 1."""
    negative_mix: float = 0.0
    """The negative network stands around the positive one (0, as published), the base (1), or between."""
    classifier_scale: float = 1.0
    """How strongly a run's preference classifier guides; models without one have nothing to scale."""
    mixed_precision: str = "no"
    """Precision in which the denoiser is held and computes: no (fp32), bf16 or fp16. Encoders, sampler and VAE stay in
    fp32."""


# Settings that say how the model is guided, not which picture is drawn: samples that differ in these alone are still
# pairs.
OF_THE_MODEL = ("model", "revision", "variant", "vae", "negative", "negative_mix", "classifier_scale")


SHAPES = (
    "latent_shape",
    "picture_size",
)  # [C, h, w] and [H, W]: settings that the model decides; older samples lack them


@dataclass(frozen=True)
class Samples:
    """A folder of samples: pictures in the order of `prompts`, each prompt `repetitions` times in a row."""

    folder: Path
    prompts: list[str]  # one per picture
    settings: dict[str, Any]
    suite: str = ""  # the source of the prompts; settings["prompts"] has their hash
    origin: dict[str, Any] = field(default_factory=dict)  # `origin_of`; empty in folders of older versions

    def __fspath__(self) -> str:
        """The folder, so that samples can be given wherever a path can."""
        return str(self.folder)

    @property
    def paths(self) -> list[Path]:
        return [picture_path(self.folder, i) for i in range(len(self.prompts))]

    def images(self) -> Pixels:
        """All pictures, uint8 [N, H, W, 3]. Raises PalateError while some are missing."""
        self._require_all()
        return np.stack([np.asarray(decode_image({"path": str(path)}, ".")) for path in self.paths])

    @cached_property
    def contents(self) -> list[str]:
        """The hash of each picture's bytes, as datasets name images. Raises PalateError while some are missing."""
        self._require_all()
        return [content_id(path.read_bytes()) for path in self.paths]

    @property
    def missing(self) -> list[int]:
        """Positions of the missing pictures."""
        return [i for i, path in enumerate(self.paths) if not path.is_file()]

    def _require_all(self) -> None:
        if missing := len(self.missing):
            command = self.origin.get("command")
            told = (
                f"The command that began them resumes: {command}"
                if command
                else "The same `palate sample` command resumes."
            )
            raise PalateError(f"{self.folder}: {missing} of {len(self.paths)} pictures are missing. {told}")


def open_samples(folder: str | Path) -> Samples:
    """Samples made earlier. Raises PalateError when the folder holds none."""
    path = Path(folder) / "samples.json"
    if not path.is_file():
        raise PalateError(f"{folder}: no samples here (no samples.json). Make some with `palate sample`.")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        settings, prompts = dict(stored["settings"]), [str(prompt) for prompt in stored["prompts"]]
        suite, origin = str(stored.get("suite", "")), dict(stored.get("origin", {}))
        _require_kinds(settings, origin)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PalateError(f"{path}: not the description of samples. Sample again into another folder.") from error
    settings = {**asdict(Sampling(steps=25, guidance=7.5)), **settings}  # those of older versions lack keys
    return Samples(Path(folder), prompts, settings, suite, origin)


def _require_kinds(settings: dict[str, Any], origin: dict[str, Any]) -> None:
    """Raises ValueError for a setting, or a part of the origin, of another kind than those of its name are."""
    learned = origin.get("learned") or {"trained_on": []}
    texts = [*learned["trained_on"], *learned.get("lost", [])]
    texts += [part for name in ("places", "weights") for part in (origin.get(name) or {}).values() if part is not None]
    base = origin.get("base")
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong or not isinstance(base, dict | None) or (base and not {"model", "revision", "place"} <= set(base)):
        raise ValueError("its origin is damaged")
    kinds: dict[str, type | tuple[type, ...]] = {"prompts": str, "sampler": str, "mixed_precision": str}
    kinds |= dict.fromkeys(("steps", "repetitions", "seed"), int)
    kinds |= dict.fromkeys(("guidance", "negative_mix", "classifier_scale"), (int, float))
    for name, kind in kinds.items():
        value = settings.get(name)
        if name in settings and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{name} is {str(value)[:40]}")
    if "prompts" not in settings or min(settings.get("steps", 1), settings.get("repetitions", 1)) < 1:
        raise ValueError("prompts, steps or repetitions are missing or 0")


def different_settings(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the settings in which two folders of samples differ; settings that the model decides count only where
    both folders have them."""
    names = [*one, *(name for name in other if name not in one)]
    return [
        name
        for name in names
        if one.get(name) != other.get(name) and not (name in SHAPES and not (name in one and name in other))
    ]


def picture_path(folder: Path, index: int) -> Path:
    """The file of the picture at this position."""
    return folder / f"{index:06}.png"
